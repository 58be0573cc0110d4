"""One problem on one device: random inputs, the float64 truth, and what a candidate must pass.

Outputs lie between guard bands and are filled with NaN before each run, so that a missing store, a
store beside and a wrong value all show.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np
import torch

from autotune.timing import Call, full_precision
from sparse_triton.config import KernelConfig
from sparse_triton.kernel import Run
from sparse_triton.kernels import FAMILIES, families_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.numerics import Float64, error_bound
from sparse_triton.problem import ProblemT, SpmmProblem
from sparse_triton.verify import half_roundings, roundings, truth

Tensor = torch.Tensor
GUARD = 1024  # elements on either side of Y
INPUTS = 2  # sets of random inputs; one where Y has more than ``BIG`` elements
BIG = 2**22  # elements of Y that are compared; of a bigger Y, a sample of columns
EDGE = 64  # columns at either end that are always compared


@dataclass
class Case:
    """One set of inputs, and the truth of the compared part in float64 on the device."""

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    y64: Tensor
    magnitude: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    bounds: dict[tuple[object, ...], Tensor]
    before_pool: Float64 | None = None


class Verdict(NamedTuple):
    """``why`` is empty where the kernel is right; ``ratio`` is its largest error over the bound."""

    why: str
    ratio: float


class Judge(ABC, Generic[ProblemT]):
    """Inputs and truth: ``check`` says whether a kernel is right, ``call`` is what to time."""

    def __init__(
        self, W: SparseMatrix, problem: ProblemT, device: torch.device, seed: int = 0
    ) -> None:
        self.W, self.problem, self.device = W.to(device), problem, device
        self.dtype: torch.dtype = getattr(torch, problem.x_dtype)
        size = self._y_elements()
        inputs = INPUTS if size <= BIG else 1
        self.columns = self._compared(seed)
        draws = [torch.Generator(device).manual_seed(seed + i) for i in range(inputs)]
        self.cases = [self._case(draw) for draw in draws]
        self.buffer = torch.empty(size + 2 * GUARD, dtype=self.dtype, device=device)
        self.Y = self._y_in(self.buffer[GUARD : GUARD + size])

    @abstractmethod
    def _y_elements(self) -> int:
        """How many elements Y has."""

    @abstractmethod
    def _y_in(self, memory: Tensor) -> Tensor:
        """Y as the problem lays it out, in this memory."""

    @abstractmethod
    def _compared(self, seed: int) -> Tensor | None:
        """What part of a big Y is compared with the truth; None: all."""

    @abstractmethod
    def _case(self, draw: torch.Generator) -> Case:
        """Random inputs and their truth."""

    @abstractmethod
    def _seen(self, Y: Tensor) -> Tensor:
        """The compared part of Y, in the truth's layout."""

    @abstractmethod
    def _error_bound(self, case: Case, config: KernelConfig) -> Float64:
        """The largest legal error of the compared part."""

    def _roundings(self, config: KernelConfig) -> tuple[int, ...]:
        """What of a configuration, besides its parts, the bound depends on."""
        return roundings(self.problem, config), config.step

    def _normal(self, draw: torch.Generator, *shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=self.device).to(self.dtype)

    def call(self, run: Run) -> Call:
        """One launch on the first set of inputs."""
        case, Y = self.cases[0], self.Y

        def once() -> None:
            run(case.X, Y, case.bias, case.residual)

        return once

    def check(self, run: Run, config: KernelConfig) -> str:
        """Why the kernel is wrong, or '' if every element lies within the derived bound."""
        return self.verdict(run, config).why

    def verdict(self, run: Run, config: KernelConfig) -> Verdict:
        """``check``, and the largest error over its bound."""
        worst = 0.0
        for case in self.cases:
            self.buffer.fill_(math.nan)
            made = run(case.X, self.Y, case.bias, case.residual)
            why, ratio = self._judge(case, self.Y if made is None else made, config)
            if why:
                return Verdict(why, ratio)
            worst = max(worst, ratio)
        return Verdict("", worst)

    def _judge(self, case: Case, Y: Tensor, config: KernelConfig) -> Verdict:
        guards = torch.cat((self.buffer[:GUARD], self.buffer[-GUARD:]))
        if not bool(guards.isnan().all()):
            return Verdict("it wrote outside of Y", math.inf)
        y = self._seen(Y).double()
        ratio = (
            (y - case.y64)
            .abs_()
            .div_(self._bound(case, config))
            .nan_to_num_(nan=math.inf, posinf=math.inf)
        )
        same = (y == case.y64) | (y.isnan() & case.y64.isnan())
        worst = float(ratio.masked_fill_(same, 0.0).max()) if ratio.numel() else 0.0
        missing = self.columns is not None and bool(Y.isnan().any() & ~y.isnan().any())
        if worst <= 1.0 and not missing:
            return Verdict("", worst)
        if math.isinf(worst) or missing:
            return Verdict("elements of Y were not written, or are not finite", math.inf)
        away = f"an element is {worst:.3g} times the error bound away from the float64 truth"
        return Verdict(away, worst)

    def _bound(self, case: Case, config: KernelConfig) -> Tensor:
        arithmetic = families_of(self.problem)[config.kernel].arithmetic
        key = (config.parts, *self._roundings(config), arithmetic)
        if key not in case.bounds:
            with np.errstate(invalid="ignore"):  # infinite weights
                bound = self._error_bound(case, config)
            case.bounds[key] = torch.from_numpy(bound).to(self.device)
        return case.bounds[key]


class Lab(Judge[SpmmProblem]):
    """A product: a part of Y are columns."""

    def _y_elements(self) -> int:
        return self.problem.batch * self.problem.M * self.problem.N

    def _y_in(self, memory: Tensor) -> Tensor:
        return memory.view(self._shape(self.problem.M, self.problem.y_layout))

    def _shape(self, rows: int, layout: str) -> tuple[int, int, int]:
        B, N = self.problem.batch, self.problem.N
        return (B, rows, N) if layout == "row" else (B, N, rows)

    def _compared(self, seed: int) -> Tensor | None:
        """Columns: the edges and some of the inner ones."""
        problem, N = self.problem, self.problem.N
        keep = max(2 * EDGE, BIG // max(1, problem.batch * problem.M))
        if keep >= N:
            return None
        draw = np.random.default_rng(seed)
        inner = draw.choice(N - 2 * EDGE, keep - 2 * EDGE, replace=False) + EDGE
        edges = np.concatenate((np.arange(EDGE), np.arange(N - EDGE, N)))
        return torch.from_numpy(np.sort(np.concatenate((inner, edges)))).to(self.device)

    def _case(self, draw: torch.Generator) -> Case:
        p = self.problem
        X = self._normal(draw, *self._shape(p.K, p.x_layout))
        bias = self._normal(draw, p.M) if p.epilogue.bias else None
        residual = None
        if p.epilogue.residual:
            residual = self._normal(draw, *self._shape(p.M, p.y_layout))
        x = self._columns_of(X, p.x_layout)
        r = None if residual is None else self._columns_of(residual, p.y_layout)
        y64, magnitude = truth(self.W, x, bias, r, p.epilogue.activation)
        return Case(X, bias, residual, torch.from_numpy(y64).to(self.device), magnitude, {})

    def _columns_of(self, t: Tensor, layout: str) -> Tensor:
        """[batch, rows, compared columns] of X, Y or the residual."""
        t = t if layout == "row" else t.mT
        return t if self.columns is None else t[..., self.columns]

    def _seen(self, Y: Tensor) -> Tensor:
        return self._columns_of(Y, self.problem.y_layout)

    def _roundings(self, config: KernelConfig) -> tuple[int, ...]:
        return *super()._roundings(config), half_roundings(self.problem, config)

    def _error_bound(self, case: Case, config: KernelConfig) -> Float64:
        stores, step, halves = self._roundings(config)
        return error_bound(
            self.W.csr.row_lengths, case.magnitude, case.y64.cpu().numpy(),
            Gy=config.parts, roundings=stores, step=step, half_roundings=halves,
            y_dtype=self.problem.x_dtype, activation=self.problem.epilogue.activation,
            arithmetic=FAMILIES[config.kernel].arithmetic,
        )  # fmt: skip


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
