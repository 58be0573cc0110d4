"""What all layers of tests share: weights of many patterns, drawn configs, guarded tensors.

No Hypothesis here: see ``tests/strategies.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparse_triton import SparseMatrix, verify
from sparse_triton.call import Call
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.family import Plan
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import SpmmProblem

PATTERNS = ("random", "empty_rows", "empty_columns", "one", "full", "ragged")
GUARD = 4096  # elements before and after a guarded tensor: more than any tile is wide
GUARD_VALUE = 7.0


def mask(pattern: str, M: int, K: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """[M, K] bool with at least one True."""
    keep = rng.random((M, K)) < density
    match pattern:
        case "empty_rows":
            keep[rng.random(M) < 0.5] = False
        case "empty_columns":
            keep[:, rng.random(K) < 0.5] = False
        case "one":
            keep[:] = False
        case "full":
            keep[:] = True
        case "ragged":
            keep = rng.random((M, K)) < np.linspace(0, 2 * density, M)[:, None]
            keep[M // 2] = True
    if not keep.any():
        keep[rng.integers(M), rng.integers(K)] = True
    return keep


def dense_weight(pattern: str, M: int, K: int, density: float = 0.1, seed: int = 0) -> torch.Tensor:
    """[M, K] float32 with exact zeros where the pattern has none."""
    rng = np.random.default_rng([seed, M, K])
    w = rng.standard_normal((M, K)).astype(np.float32)
    w[w == 0] = 1.0
    return torch.from_numpy(np.where(mask(pattern, M, K, density, rng), w, np.float32(0)))


def weight(pattern: str, M: int, K: int, density: float = 0.1, seed: int = 0) -> SparseMatrix:
    return SparseMatrix.from_dense(dense_weight(pattern, M, K, density, seed))


def draw_config(
    rng: np.random.Generator,
    problem: SpmmProblem,
    device: Device,
    family: str,
    tries: int = 400,
    **forced: Any,
) -> KernelConfig | None:
    """A legal config from the family's space with the forced fields; None if none was found."""
    space = FAMILIES[family].space(problem, device)
    for _ in range(tries):
        fields = {name: values[rng.integers(len(values))] for name, values in space.items()}
        config = KernelConfig(family, **{**fields, **forced})
        if why_not(problem, config, device) is None:
            return config
    return None


def problem_for(W: SparseMatrix, N: int, **options: Any) -> SpmmProblem:
    w_dtype = str(W.dtype).removeprefix("torch.")
    return SpmmProblem(*W.shape, N, W.nnz, w_dtype=w_dtype, **options)


@dataclass
class Guarded:
    """A tensor in the middle of a larger storage whose ends must stay as they are."""

    storage: torch.Tensor
    tensor: torch.Tensor
    band: float

    def intact(self) -> bool:
        ends = torch.cat([self.storage[:GUARD], self.storage[-GUARD:]])
        return bool((ends.isnan() if np.isnan(self.band) else ends == self.band).all())


def guarded(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, band: float = float("nan")
) -> Guarded:
    """NaN-filled tensor of the shape between two bands of ``band``."""
    numel = int(np.prod(shape))
    storage = torch.full((2 * GUARD + numel,), band, dtype=dtype, device=device)
    tensor = storage[GUARD : GUARD + numel].view(shape)
    tensor.fill_(float("nan"))
    return Guarded(storage, tensor, band)


def randn(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> torch.Tensor:
    """Normal values between bands of NaN: reading past them shows."""
    x = guarded(shape, dtype, device).tensor
    x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return x


@dataclass
class Bound:
    """A plan bound to a device with operands in the plan's layouts."""

    plan: Plan
    W: SparseMatrix
    X: torch.Tensor
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    run: Any

    def result(self) -> torch.Tensor:
        """Y as the plan lays it out, from a NaN-filled start; bands are checked."""
        p, device = self.plan.problem, str(self.X.device)
        rows, columns = (p.M, p.N) if p.y_layout == "row" else (p.N, p.M)
        Y = guarded((p.batch, rows, columns), self.X.dtype, device, band=GUARD_VALUE)
        self.run(self.X, Y.tensor, self.bias, self.residual)
        assert Y.intact(), "wrote outside Y"
        return Y.tensor

    def ratio(self, Y: torch.Tensor) -> float:
        """Largest error over bound; right where it is at most 1."""
        p, config = self.plan.problem, self.plan.config
        x = self.X if p.x_layout == "row" else self.X.mT
        residual = self.residual
        if p.y_layout == "column":
            Y, residual = Y.mT, None if residual is None else residual.mT
        call = Call(x, self.bias, residual, p.epilogue.activation, False, p.accumulate)
        return verify.call_ratio(Y, self.W, call, config)


def bind(
    W: SparseMatrix, problem: SpmmProblem, config: KernelConfig, device: str, seed: int = 0
) -> Bound:
    """Plan, build and bind with drawn operands."""
    where = torch.device(device)
    plan = plan_spmm(problem, config, W.csr, Device.of(where))
    return with_operands(plan, W, plan.family.build(plan).bind(where), device, seed)


def with_operands(plan: Plan, W: SparseMatrix, run: Any, device: str, seed: int = 0) -> Bound:
    p = plan.problem
    dtype = getattr(torch, p.x_dtype)
    x_shape = (p.K, p.N) if p.x_layout == "row" else (p.N, p.K)
    y_shape = (p.M, p.N) if p.y_layout == "row" else (p.N, p.M)
    X = randn((p.batch, *x_shape), dtype, device, seed)
    bias = randn((p.M,), dtype, device, seed + 1) if p.epilogue.bias else None
    residual = None
    if p.epilogue.residual:
        residual = randn((p.batch, *y_shape), dtype, device, seed + 2)
    return Bound(plan, W, X, bias, residual, run)


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal state dicts: names, order, and every bit, the sign of zero included."""
    if list(a) != list(b):
        return False
    pairs = [(a[k], b[k]) for k in a]
    return all(
        x.dtype == y.dtype and x.shape == y.shape
        and (torch.equal(x, y) and torch.equal(x.signbit(), y.signbit()))
        for x, y in pairs
    )  # fmt: skip
