"""Staged convolutions on the GPU: drawn geometries and configurations, NaN around X and in Y,
float64 truth, same bits; NaN and Inf, every corner case by name, a layer of a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparse_triton import SparseMatrix
from sparse_triton.build import parts_of
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import families_of
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import ConvProblem, Epilogue, Pool
from sparse_triton.verify import call_ratio
from tests.conv_support import (
    FAMILIES,
    H100,
    Drawn,
    call_of,
    drawn_config,
    drawn_filter,
    drawn_problem,
)  # fmt: skip
from tests.support import GUARD_VALUE, guarded, randn

pytestmark = pytest.mark.gpu
COUNT = 90


def _cases(kernel: str) -> list[tuple[Drawn, KernelConfig]]:
    out: list[tuple[Drawn, KernelConfig]] = []
    for seed in range(10 * COUNT):
        rng = np.random.default_rng([seed, *kernel.encode()])
        drawn = drawn_problem(rng, seed)
        config = None if drawn is None else drawn_config(rng, drawn.problem, kernel)
        if drawn is not None and config is not None:
            out.append((drawn, config))
        if len(out) == COUNT:
            return out
    raise AssertionError(f"{kernel}: only {len(out)} of {COUNT} cases are legal")


class Run:
    """A bound kernel and its operands, in the problem's layouts between bands of NaN."""

    def __init__(self, p: ConvProblem, config: KernelConfig, W: SparseMatrix, seed: int) -> None:
        self.p, self.config, self.W = p, config, W
        plan = plan_spmm(p, config, W.csr, Device.of(torch.device("cuda")))
        kernel = plan.family.build(plan)
        self.launches = len(parts_of(kernel))
        self.run = kernel.bind(torch.device("cuda", 0))
        dtype = getattr(torch, p.x_dtype)
        self.X = randn(_memory(p.x_layout, p.batch, p.C, p.H, p.W), dtype, "cuda", seed)
        self.bias = randn((p.M,), dtype, "cuda", seed + 1) if p.epilogue.bias else None
        pixels = _memory(p.y_layout, p.batch, p.M, p.P, p.Q)
        self.residual = randn(pixels, dtype, "cuda", seed + 2) if p.epilogue.residual else None

    def result(self) -> torch.Tensor:
        p = self.p
        shape = _memory(p.y_layout, p.batch, p.M, *p.y_size)
        Y = guarded(shape, self.X.dtype, "cuda", band=GUARD_VALUE)
        self.run(self.X, Y.tensor, self.bias, self.residual)
        assert Y.intact(), "wrote outside Y"
        return _meaning(p.y_layout, Y.tensor)

    def ratio(self, Y: torch.Tensor) -> float:
        X = _meaning(self.p.x_layout, self.X)
        residual = None if self.residual is None else _meaning(self.p.y_layout, self.residual)
        return call_ratio(Y, self.W, call_of(self.p, X, self.bias, residual), self.config)


def _memory(layout: str, *shape: int) -> tuple[int, ...]:
    b, c, h, w = shape
    return shape if layout == "row" else (b, h, w, c)


def _meaning(layout: str, t: torch.Tensor) -> torch.Tensor:
    return t if layout == "row" else t.permute(0, 3, 1, 2)


def _id(case: tuple[Drawn, KernelConfig]) -> str:
    drawn, config = case
    p = drawn.problem
    e = p.epilogue
    return (
        f"{drawn.seed} {p} pad{p.padding} dil{p.dilation} g{p.groups} {drawn.pattern} "
        f"{p.x_layout}-{p.y_layout} {e.bias:d}{e.residual:d}{e.activation} {p.pool} {config}"
    )


@pytest.mark.parametrize("case", [c for kernel in FAMILIES for c in _cases(kernel)], ids=_id)
def test_result_is_within_the_bound_and_repeats(case: tuple[Drawn, KernelConfig]) -> None:
    drawn, config = case
    device = Device.of(torch.device("cuda"))
    reason = why_not(drawn.problem, config, device)
    if reason is not None:
        pytest.skip(f"not legal on {device.name}: {reason}")
    run = Run(drawn.problem, config, drawn.weight(), drawn.seed)
    first, second = run.result(), run.result()
    assert run.ratio(first) <= 1.0
    bits = torch.int32 if first.element_size() == 4 else torch.int16
    assert torch.equal(first.contiguous().view(bits), second.contiguous().view(bits))


THREE = ConvProblem(1, 16, 14, 14, 32, 3, 3, 0, padding=(1, 1, 1, 1))
CORNERS = {
    "one pixel": replace(THREE, H=1, W=1),
    "kernel larger than the image": replace(THREE, H=2, W=3, R=5, S=7, padding=(3, 2, 3, 3)),
    "one column": replace(THREE, W=1),
    "wide": replace(THREE, C=3, H=3, W=1500),
    "stride 3, dilation 2": replace(THREE, H=33, W=29, stride=(3, 3), dilation=(2, 2)),
    "asymmetric": replace(THREE, R=1, S=5, padding=(0, 2, 4, 1), stride=(2, 1)),
    "stem": replace(THREE, C=3, H=64, W=64, R=7, S=7, stride=(2, 2), padding=(3, 3, 3, 3)),
    "pointwise with stride": replace(THREE, R=1, S=1, padding=(0, 0, 0, 0), stride=(2, 2)),
    "groups, one of them empty": replace(THREE, groups=4),
    "depthwise": replace(THREE, C=32, groups=32),
    "batch": replace(THREE, batch=33, H=7, W=7),
    "max pool": replace(THREE, pool=Pool("max", (2, 2), (2, 2))),
    "overlapping padded pool": replace(THREE, pool=Pool("max", (3, 3), (2, 2), (1, 1))),
    "average": replace(THREE, pool=Pool("avg", (3, 3), (3, 3), (1, 1))),
    "pool and batch": replace(THREE, batch=5, H=7, W=7, pool=Pool("avg", (2, 2), (2, 2))),
    "channels-last": replace(THREE, x_layout="column", y_layout="column", batch=2),
}


@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("name", CORNERS)
def test_corner_with_the_family_s_default(name: str, kernel: str) -> None:
    p = replace(CORNERS[name], epilogue=Epilogue(bias=True, activation="relu"))
    W = drawn_filter(p, "random", 0.15, seed=1)
    p = replace(p, nnz=W.nnz)
    config = families_of(p)[kernel].default_config(p, Device.of(torch.device("cuda")))
    run = Run(p, config, W, seed=5)
    assert run.ratio(run.result()) <= 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kernel", FAMILIES)
def test_nan_and_inf_spread_through_stored_weights_only(kernel: str, bad: float) -> None:
    W = drawn_filter(THREE, "ragged", 0.1, seed=3)
    p = replace(THREE, nnz=W.nnz)
    config = drawn_config(np.random.default_rng(0), p, kernel)
    assert config is not None
    run = Run(p, config, W, seed=0)
    run.X[0, 5, 6, 7] = bad
    Y = run.result()[0]
    filters = (W.to_dense() != 0).view(p.M, p.C, 3, 3)[:, 5].flip(1, 2).cuda()
    touched = torch.zeros(p.M, p.P, p.Q, dtype=torch.bool, device="cuda")
    touched[:, 5:8, 6:9] = filters
    assert torch.equal(~Y.isfinite(), touched)


def test_nan_wins_in_a_max_pool() -> None:
    p = replace(THREE, pool=Pool("max", (2, 2), (2, 2)))
    W = drawn_filter(p, "full", 1.0, seed=0)
    config = families_of(p)["gather"].default_config(replace(p, nnz=W.nnz), H100)
    run = Run(replace(p, nnz=W.nnz), config, W, seed=0)
    run.X[0, 0, 0, 0] = float("nan")
    Y = run.result()[0]
    assert Y[:, 0, 0].isnan().all()
    assert Y[:, 1:, 1:].isfinite().all()


@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("batch", [1, 32])
def test_layer_of_a_network(kernel: str, batch: int) -> None:
    p = ConvProblem(
        batch, 64, 28, 28, 96, 3, 3, 0, padding=(1, 1, 1, 1), epilogue=Epilogue(True, True, "relu")
    )
    W = drawn_filter(p, "random", 0.1, seed=5)
    p = replace(p, nnz=W.nnz)
    config = families_of(p)[kernel].default_config(p, Device.of(torch.device("cuda")))
    run = Run(p, config, W, seed=1)
    assert run.ratio(run.result()) <= 1.0


def test_long_programs_are_launched_in_turn() -> None:
    device = Device.of(torch.device("cuda"))
    p = ConvProblem(
        device.cores, 96, 28, 28, 96, 3, 3, 0, padding=(1, 1, 1, 1), epilogue=Epilogue(bias=True)
    )
    W = drawn_filter(p, "random", 0.25, seed=0)
    p = replace(p, nnz=W.nnz)
    config = KernelConfig("unrolled", 3, 1, starts=8, prefetch=4, window_kb=96)
    run = Run(p, config, W, seed=2)
    assert run.launches == 2
    assert run.ratio(run.result()) <= 1.0
