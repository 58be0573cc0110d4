"""One problem on one device: random inputs, the float64 truth, and what a candidate must pass.

Outputs lie between guard bands and are filled with NaN before each run, so that a missing store, a
store beside and a wrong value all show.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from autotune.timing import Call, full_precision
from sparse_triton.config import KernelConfig
from sparse_triton.kernel import Run
from sparse_triton.matrix import SparseMatrix
from sparse_triton.numerics import error_bound
from sparse_triton.problem import Epilogue, SpmmProblem
from sparse_triton.verify import truth

Tensor = torch.Tensor
GUARD = 1024  # elements on either side of Y
INPUTS = 2  # sets of random inputs; one where Y has more than ``BIG`` elements
BIG = 2**22  # elements of Y that are compared; of a bigger Y, a sample of columns
EDGE = 64  # columns at either end that are always compared


@dataclass
class Case:
    """One set of inputs, and the truth [batch, M, compared columns] in float64 on the device."""

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    y64: Tensor
    magnitude: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    bounds: dict[tuple[int, int], Tensor]


class Lab:
    """``check`` says whether a kernel is right, ``call`` is what to time."""

    def __init__(
        self, W: SparseMatrix, problem: SpmmProblem, device: torch.device, seed: int = 0
    ) -> None:
        self.W, self.problem, self.device = W.to(device), problem, device
        self.dtype: torch.dtype = getattr(torch, problem.x_dtype)
        size = problem.batch * problem.M * problem.N
        inputs = INPUTS if size <= BIG else 1
        self.columns = _compared(problem, device, seed)
        self.cases = [self._case(seed + i) for i in range(inputs)]
        self.buffer = torch.empty(size + 2 * GUARD, dtype=self.dtype, device=device)
        self.Y = self.buffer[GUARD : GUARD + size].view(self._shape(problem.M, problem.y_layout))

    def _shape(self, rows: int, layout: str) -> tuple[int, int, int]:
        B, N = self.problem.batch, self.problem.N
        return (B, rows, N) if layout == "row" else (B, N, rows)

    def _case(self, seed: int) -> Case:
        p = self.problem
        draw = torch.Generator(self.device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, device=self.device).to(self.dtype)

        X = normal(*self._shape(p.K, p.x_layout))
        bias = normal(p.M) if p.epilogue.bias else None
        residual = normal(*self._shape(p.M, p.y_layout)) if p.epilogue.residual else None
        x = self._seen(X, p.x_layout)
        r = None if residual is None else self._seen(residual, p.y_layout)
        y64, magnitude = truth(self.W, x, bias, r, p.epilogue.activation)
        return Case(X, bias, residual, torch.from_numpy(y64).to(self.device), magnitude, {})

    def _seen(self, t: Tensor, layout: str) -> Tensor:
        """[batch, rows, compared columns] of X, Y or the residual."""
        t = t if layout == "row" else t.mT
        return t if self.columns is None else t[..., self.columns]

    def call(self, run: Run) -> Call:
        """One launch on the first set of inputs."""
        case, Y = self.cases[0], self.Y

        def once() -> None:
            run(case.X, Y, case.bias, case.residual)

        return once

    def check(self, run: Run, config: KernelConfig) -> str:
        """Why the kernel is wrong, or '' if every element lies within the derived bound."""
        for case in self.cases:
            self.buffer.fill_(math.nan)
            run(case.X, self.Y, case.bias, case.residual)
            reason = self._judge(case, config)
            if reason:
                return reason
        return ""

    def _judge(self, case: Case, config: KernelConfig) -> str:
        guards = torch.cat((self.buffer[:GUARD], self.buffer[-GUARD:]))
        if not bool(guards.isnan().all()):
            return "it wrote outside of Y"
        y = self._seen(self.Y, self.problem.y_layout).double()
        ratio = (
            (y - case.y64)
            .abs_()
            .div_(self._bound(case, config))
            .nan_to_num_(nan=math.inf, posinf=math.inf)
        )
        same = (y == case.y64) | (y.isnan() & case.y64.isnan())
        worst = float(ratio.masked_fill_(same, 0.0).max()) if ratio.numel() else 0.0
        missing = self.columns is not None and bool(self.Y.isnan().any() & ~y.isnan().any())
        if worst <= 1.0 and not missing:
            return ""
        if math.isinf(worst) or missing:
            return "elements of Y were not written, or are not finite"
        return f"an element is {worst:.3g} times the error bound away from the float64 truth"

    def _bound(self, case: Case, config: KernelConfig) -> Tensor:
        key = (config.Gy, roundings(self.problem, config))
        if key not in case.bounds:
            with np.errstate(invalid="ignore"):  # infinite weights
                bound = error_bound(
                    self.W.csr.row_lengths, case.magnitude, case.y64.cpu().numpy(),
                    Gy=key[0], roundings=key[1], y_dtype=self.problem.x_dtype,
                    activation=self.problem.epilogue.activation,
                )  # fmt: skip
            case.bounds[key] = torch.from_numpy(bound).to(self.device)
        return case.bounds[key]


def _compared(problem: SpmmProblem, device: torch.device, seed: int) -> Tensor | None:
    """Columns that are compared with the truth; None: all."""
    N = problem.N
    keep = max(2 * EDGE, BIG // max(1, problem.batch * problem.M))
    if keep >= N:
        return None
    inner = np.random.default_rng(seed).choice(N - 2 * EDGE, keep - 2 * EDGE, replace=False) + EDGE
    edges = np.concatenate((np.arange(EDGE), np.arange(N - EDGE, N)))
    return torch.from_numpy(np.sort(np.concatenate((inner, edges)))).to(device)


def roundings(problem: SpmmProblem, config: KernelConfig) -> int:
    """Roundings to Y's dtype: 2 where a 16-bit library product is stored before the epilogue."""
    product = torch.promote_types(getattr(torch, problem.x_dtype), getattr(torch, problem.w_dtype))
    stored = config.kernel == "dense" and problem.epilogue != Epilogue()
    return 2 if stored and product != torch.float32 else 1


@contextlib.contextmanager
def quiet(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, full precision, this device: how candidates are run."""
    plain = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), plain, full_precision():
        if device.type == "cuda":
            with torch.cuda.device(device):
                yield
        else:
            yield
