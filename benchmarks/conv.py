"""Convolutions on a GPU: every family against cuDNN, verified, then timed interleaved in one run.

``conv`` measures the bare convolution; ``convpool`` convolution, bias, ReLU and 2x2 max pool in one
kernel against the library's calls in one CUDA graph, and against our own convolution followed by a
pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from autotune import warmup_problems
from autotune.ahead import Kernels
from autotune.conv_lab import ConvLab
from autotune.lab import quiet
from autotune.timing import interleaved, timer_for
from benchmarks.contest import verified
from benchmarks.conv_problems import ConvLayer
from benchmarks.dense_models import library_convolutions
from sparse_triton import SparseFilter
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import ConvProblem

F = torch.nn.functional
OURS = ("unrolled", "gather")
LONGEST_COMPILED = 20_000  # non-zeros: beyond, unrolled is left out unless it is the choice
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
    rows = []
    with Kernels(facts) as kernels:
        for _, problem, W in problems:
            for config in _configs(problem, W, facts).values():
                kernels.order(W.matrix, problem, config)
        kernels.compile()
        moved = {key: W.to("cuda") for key, W in filters.items()}
        for layer in tqdm(layers, desc="measuring", unit="layer"):
            rows.append(_row(layer, moved[_weight_key(layer)], kernels))
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
    configs = {name: CONV_FAMILIES[name].default_config(problem, device) for name in OURS}
    chosen = choose(problem, W.matrix.pattern_hash, device).config
    if problem.nnz > LONGEST_COMPILED and chosen != configs["unrolled"]:
        del configs["unrolled"]
    configs["conv2d"] = chosen
    return {name: c for name, c in configs.items() if why_not(problem, c, device) is None}


def _row(layer: ConvLayer, W: SparseFilter, kernels: Kernels) -> Row:
    """Shapes; for each contestant ``us`` and quantiles; for ours configuration and error."""
    device = torch.device("cuda")
    facts, problem = Device.of(device), _problem(layer, W)
    configs = _configs(problem, W, facts)
    contestants: dict[str, Contestant] = {}
    errors = {}
    with quiet(device):
        lab = ConvLab(W.matrix, problem, device)
        for name, config in configs.items():
            run = kernels.take(W.matrix, problem, config).bind(device)
            errors[name] = verified(lab, run, config, f"{layer.name} {name}")
            contestants[name] = lab.call(run)
        if layer.pool is not None:
            contestants["ours_then_pool"] = _then_pool(layer, W, lab, kernels)
        contestants |= cudnn_calls(layer, W, lab.cases[0].X, lab.cases[0].bias)
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


def _then_pool(layer: ConvLayer, W: SparseFilter, lab: ConvLab, kernels: Kernels) -> Contestant:
    """Our convolution with bias and ReLU, then the library's pool."""
    assert layer.pool is not None
    kernel, stride = layer.pool.kernel, layer.pool.stride
    problem, case = replace(lab.problem, pool=None), lab.cases[0]
    config = choose(problem, W.matrix.pattern_hash, kernels.device).config
    run = kernels.take(W.matrix, problem, config).bind(lab.device)
    Y = torch.empty(problem.batch, problem.M, problem.P, problem.Q, device=lab.device)

    def call() -> object:
        made = run(case.X, Y, case.bias, None)
        return F.max_pool2d(Y if made is None else made, kernel, stride)

    return call


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
        with library_convolutions(tf32):
            if pool is None:
                return F.conv2d(x, w, None, stride, 1)
            y = torch.cudnn_convolution_relu(x, w, bias, (stride,) * 2, (1, 1), (1, 1), 1)
            return F.max_pool2d(y, pool.kernel, pool.stride)

    return call
