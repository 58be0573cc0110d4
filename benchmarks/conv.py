"""Convolutions on a GPU: every family against cuDNN, verified, then timed interleaved in one run.

``conv`` measures the bare convolution; ``convpool`` convolution, bias, ReLU and 2x2 max pool in one
kernel against the library's calls in one CUDA graph, and against our own convolution followed by a
pool.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from autotune import warmup_problems
from autotune.timing import interleaved, timer_for
from benchmarks.conv_problems import ConvLayer
from sparse_triton import SparseFilter
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import ConvProblem
from sparse_triton.verify import call_ratio

F = torch.nn.functional
OURS = ("unrolled", "gather")
LONGEST_COMPILED = 60_000  # non-zeros: beyond, unrolled is left out unless it is the choice
VERIFIED_PIXELS = 2**23  # in float64, on the host
Row = dict[str, Any]
Contestant = Callable[[], object]


def run(
    layers: Iterable[ConvLayer],
    budget: str | None = None,
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """A row a layer; see ``_row`` for its fields. With a budget, ``autotune`` searches first.

    keep  is told the rows so far after each layer: an interrupted run loses one
    """
    layers, facts = list(layers), Device.of(torch.device("cuda"))
    filters = {key: layer.load() for layer in layers for key in [_weight_key(layer)]}
    problems = [
        (layer, problem, filters[_weight_key(layer)])
        for layer in layers
        for problem in _problems(layer, filters[_weight_key(layer)])
    ]
    if budget is not None:
        named = ((f"{layer.name} {layer.sparsity}", W.matrix, p) for layer, p, W in problems)
        warmup_problems(named, budget=budget, every_instance=True, quiet=False)
    _compile(
        [(layer, p, c) for layer, p, W in problems for c in _configs(p, W, facts).values()], facts
    )
    moved = {key: W.to("cuda") for key, W in filters.items()}
    rows = []
    for layer in tqdm(layers, desc="measuring", unit="layer"):
        rows.append(_row(layer, moved[_weight_key(layer)]))
        keep(rows)
    return rows


def _weight_key(layer: ConvLayer) -> ConvLayer:
    return replace(layer, batch=1, pool=None)


def _problem(layer: ConvLayer, W: SparseFilter) -> ConvProblem:
    return layer.problem(W.nnz, bias=layer.pool is not None)


def _problems(layer: ConvLayer, W: SparseFilter) -> list[ConvProblem]:
    """What is launched for a layer: where a pool is fused, the convolution alone, too."""
    fused = _problem(layer, W)
    return [fused] if layer.pool is None else [fused, replace(fused, pool=None)]


def _configs(problem: ConvProblem, W: SparseFilter, device: Device) -> dict[str, KernelConfig]:
    """Each family's default where it is legal, and what ``conv2d`` itself would take."""
    names = OURS if problem.nnz <= LONGEST_COMPILED else ("gather",)
    configs = {name: CONV_FAMILIES[name].default_config(problem, device) for name in names}
    configs["conv2d"] = choose(problem, W.matrix.pattern_hash, device).config
    return {name: c for name, c in configs.items() if why_not(problem, c, device) is None}


def _row(layer: ConvLayer, W: SparseFilter) -> Row:
    """Shapes; for each contestant ``us`` and quantiles; for ours configuration and error."""
    device = torch.device("cuda")
    facts, problem = Device.of(device), _problem(layer, W)
    X = layer.images(device)
    bias = torch.randn(layer.M, device=device) if layer.pool else None
    activation = "relu" if layer.pool else None
    call = ConvCall(X, bias, None, activation, layer.geometry)
    configs = _configs(problem, W, facts)
    contestants: dict[str, Contestant] = {}
    errors = {}
    for name, config in configs.items():
        launch = prepare(W.matrix, call, config)
        errors[name] = _verified(launch(call, None), W, call, config, layer.name)
        contestants[name] = lambda launch=launch: launch(call, None)
    if layer.pool is not None:
        contestants["ours_then_pool"] = _then_pool(layer, W, call, facts)
    contestants |= cudnn_calls(layer, W, X, bias)
    timings = interleaved([timer_for(c, device) for c in contestants.values()], "cuda")  # type: ignore[arg-type]
    return {
        "layer": layer.name,
        "network": layer.name.partition(" ")[0],
        "C": layer.C, "size": layer.size, "M": layer.M, "stride": layer.stride,
        "pool": layer.pool is not None,
        "count": layer.count,
        "batch": layer.batch,
        "sparsity": layer.sparsity,
        "nnz": W.nnz,
        "choice": choose(problem, W.matrix.pattern_hash, facts).source,
        "config": {name: str(config) for name, config in configs.items()},
        "error_over_bound": errors,
        "us": {n: t.to_dict() for n, t in zip(contestants, timings, strict=True)},
    }  # fmt: skip


def _verified(
    Y: torch.Tensor, W: SparseFilter, call: ConvCall, config: KernelConfig, name: str
) -> float:
    """Largest error over bound; of many images the first, the last and some between."""
    batch = call.X.shape[0]
    some = max(2, VERIFIED_PIXELS // (Y.shape[1] * call.X.shape[2] * call.X.shape[3]))
    images = torch.linspace(0, batch - 1, min(batch, some), device=Y.device).round().long()
    ratio = call_ratio(Y[images], W.matrix, call._replace(X=call.X[images]), config)
    if not ratio <= 1.0:
        raise AssertionError(f"{name} {config}: error is {ratio:.2f} times the bound")
    return round(ratio, 4)


def _then_pool(layer: ConvLayer, W: SparseFilter, call: ConvCall, device: Device) -> Contestant:
    """Our convolution with bias and ReLU, then the library's pool."""
    assert layer.pool is not None
    kernel, stride = layer.pool.kernel, layer.pool.stride
    bare = call._replace(geometry=replace(layer, pool=None).geometry)
    problem = replace(_problem(layer, W), pool=None)
    launch = prepare(W.matrix, bare, choose(problem, W.matrix.pattern_hash, device).config)
    return lambda: F.max_pool2d(launch(bare, None), kernel, stride)


# -- cuDNN -----------------------------------------------------------------------------------------


def cudnn_calls(
    layer: ConvLayer, W: SparseFilter, X: torch.Tensor, bias: torch.Tensor | None
) -> dict[str, Contestant]:
    """The library's best: algorithms measured (``benchmark=True``), fp32, TF32, fp16 channels-last;
    bias and ReLU fused into the convolution where cuDNN does that."""
    w = W.to_dense().to(X.dtype)
    half = torch.float16
    last = torch.channels_last
    xh, wh = (t.to(half).to(memory_format=last) for t in (X, w))
    bh = None if bias is None else bias.to(half)
    return {
        "cudnn_fp32": _cudnn(layer, X, w, bias, tf32=False),
        "cudnn_tf32": _cudnn(layer, X, w, bias, tf32=True),
        "cudnn_fp16": _cudnn(layer, xh, wh, bh, tf32=False),
    }


def _cudnn(
    layer: ConvLayer, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, tf32: bool
) -> Contestant:
    stride, pool = layer.stride, layer.pool

    def call() -> torch.Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            if pool is None:
                return F.conv2d(x, w, None, stride, 1)
            y = torch.cudnn_convolution_relu(x, w, bias, (stride,) * 2, (1, 1), (1, 1), 1)
            return F.max_pool2d(y, pool.kernel, pool.stride)

    return call


# -- compiling ahead, one process a core -----------------------------------------------------------


def _compile(jobs: list[tuple[ConvLayer, ConvProblem, KernelConfig]], device: Device) -> None:
    """Fill Triton's disk cache; the longest programs first."""
    on_gpu = {j for j in jobs if CONV_FAMILIES[j[2].kernel].device_kind == "cuda"}
    ordered = sorted(on_gpu, key=lambda j: (j[2].kernel != "unrolled", -j[1].nnz, str(j[2])))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(_build, *job, device) for job in ordered]
        for future in tqdm(futures, desc="compiling", unit="kernel"):
            future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _build(layer: ConvLayer, problem: ConvProblem, config: KernelConfig, device: Device) -> None:
    plan = plan_spmm(problem, config, layer.load().matrix.csr, device)
    plan.family.build(plan)
