"""Family ``cpu`` against PyTorch's convolution on this machine's CPU; verified, then timed.

ReLU follows each convolution, and on the VGG-19 pairs a 2x2 max pool. Weights are drawn: what the
CPU kernel does depends on how many non-zeros there are, hardly on where.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.cpu_spmm import Row, interleaved
from sparse_triton import SparseFilter, verify
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare, problem_of
from sparse_triton.geometry import geometry_of
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.problem import ConvProblem, Pool

F = torch.nn.functional
HALVED = Pool("max", (2, 2), (2, 2))


class Layer(NamedTuple):
    """A 3x3 convolution with padding 1."""

    name: str
    C: int
    M: int
    size: int
    stride: int = 1
    pool: Pool | None = None
    channels_last: bool = False


RESNET = tuple(
    Layer(f"ResNet-50 {C}", C, C, size) for C, size in ((64, 56), (128, 28), (256, 14), (512, 7))
)
STRIDED = tuple(
    Layer(f"ResNet-50 {C} stride 2", C, C, size, 2) for C, size in ((128, 56), (256, 28), (512, 14))
)
POOLED = tuple(
    Layer(f"VGG-19 {C} + pool", C, C, size, pool=HALVED)
    for C, size in ((64, 224), (128, 112), (256, 56), (512, 28), (512, 14))
)
TOKENS = tuple(layer._replace(channels_last=True) for layer in RESNET)
CASES = (
    *((layer, sparsity) for layer in RESNET for sparsity in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
    *((layer, 0.9) for layer in (*STRIDED, *POOLED, *TOKENS)),
)


def run(repeats: int = 50) -> list[Row]:
    """Rows with the layer, sparsity, config, error_over_bound, ``dense_us`` and ``cpu_us``."""
    return [_row(layer, sparsity, repeats) for layer, sparsity in CASES]


def _row(layer: Layer, sparsity: float, repeats: int) -> Row:
    draw = torch.Generator().manual_seed(layer.C + layer.size)
    shape = (layer.M, layer.C, 3, 3)
    w = torch.randn(shape, generator=draw)
    w[torch.rand(shape, generator=draw) < sparsity] = 0.0
    W, bias = SparseFilter.from_dense(w).matrix, torch.randn(layer.M, generator=draw)
    form = torch.channels_last if layer.channels_last else torch.contiguous_format
    X = torch.randn(1, layer.C, layer.size, layer.size, generator=draw).to(memory_format=form)
    geometry = geometry_of((3, 3), layer.stride, 1, 1, 1, layer.pool)
    call = ConvCall(X, bias, None, "relu", geometry)
    problem = problem_of(W, call)
    assert isinstance(problem, ConvProblem)
    config = CONV_FAMILIES["cpu"].default_config(problem, Device.of(X.device))
    launch = prepare(W, call, config)
    ratio = verify.call_ratio(launch(call, None), W, call, config)
    if not ratio <= 1.0:
        raise AssertionError(f"family cpu is off by {ratio:.2f} times the bound on {problem}")
    row: Row = {
        "layer": layer.name, "H": layer.size, "sparsity": sparsity, "config": str(config),
        "layout": "channels-last" if layer.channels_last else "NCHW", "error_over_bound": ratio,
    }  # fmt: skip
    w = w.to(memory_format=form)

    def dense() -> torch.Tensor:
        y = F.conv2d(X, w, bias, layer.stride, 1).relu_()
        return y if layer.pool is None else F.max_pool2d(y, 2)

    calls = {"dense": dense, "cpu": lambda: launch(call, None)}
    return row | {f"{name}_us": us for name, us in interleaved(calls, repeats).items()}


def table(rows: list[Row]) -> str:
    """Markdown: times in µs, and how many times faster than the library family ``cpu`` is."""
    lines = ["layer | H = W | layout | zeros | dense µs | cpu µs | x dense"]
    lines.append(" | ".join(["---"] * 7))
    for r in rows:
        ratio = r["dense_us"] / r["cpu_us"]
        lines.append(
            f"{r['layer']} | {r['H']} | {r['layout']} | {r['sparsity']:.0%} | "
            f"{r['dense_us']:.0f} | {r['cpu_us']:.0f} | {ratio:.1f}"
        )
    return "\n".join(f"| {line} |" for line in lines)
