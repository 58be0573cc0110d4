"""Family ``turned``: token-major X is turned once, and then gathered as if it were row-major.

Gathering from token-major X costs a cache line a value, since the columns that a warp works on are
K values apart. Turning X is one short kernel that reads and writes it once. A tall token-major Y is
turned too, whatever layout X has: storing to it costs a sector a value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.gather import Gather
from sparse_triton.problem import SpmmProblem

if TYPE_CHECKING:
    from sparse_triton.build import TritonKernel

GATHER = Gather()
TALL = 1024  # rows of Y from which turning it costs less than storing to it


class Turned(Family[SpmmProblem]):
    name = "turned"
    device_kind = "cuda"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        if problem.N == 1:
            return "one column needs no turning; use kernel='gather'"
        if row_major(problem) == problem:
            return (
                "X is row-major already, and Y is, too, or has a residual or fewer than "
                f"{TALL} rows (got {problem.M}); use kernel='gather'"
            )
        return GATHER.why_not(row_major(problem), gathering(config), device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return GATHER.space(row_major(problem), device)

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        return replace(GATHER.default_config(row_major(problem), device), kernel=self.name)

    def build(self, plan: Plan[SpmmProblem]) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.turned.kernel import turn_source

        p, arch = plan.problem, plan.device.arch
        inner = gathering_plan(plan)

        def turn(rows: int, columns: int) -> Kernel:
            source = turn_source(rows, columns, p.batch, p.x_dtype, arch)
            return compile_kernel(source, arch)

        return TurnedKernel(
            p,
            None if inner.problem.x_layout == p.x_layout else turn(p.N, p.K),
            GATHER.build(inner),
            None if inner.problem.y_layout == p.y_layout else turn(p.M, p.N),
        )

    def reference(self, plan: Plan[SpmmProblem], X: NDArray[np.float32]) -> NDArray[np.float32]:
        return GATHER.reference(gathering_plan(plan), X)


def row_major(problem: SpmmProblem) -> SpmmProblem:
    """The problem once X, and Y where that pays, is turned."""
    tall = problem.M >= TALL and not problem.epilogue.residual
    return replace(problem, x_layout="row", y_layout="row" if tall else problem.y_layout)


def gathering(config: KernelConfig) -> KernelConfig:
    return replace(config, kernel="gather")


def gathering_plan(plan: Plan[SpmmProblem]) -> Plan[SpmmProblem]:
    inner, config = row_major(plan.problem), gathering(plan.config)
    return replace(plan, problem=inner, config=config, family=GATHER)


@dataclass(frozen=True, eq=False)
class TurnedKernel:
    """Two launches, or three; what is turned lives in memory of the call's own."""

    problem: SpmmProblem
    turn_x: Kernel | None
    gather: Kernel
    turn_y: Kernel | None

    @property
    def parts(self) -> tuple[TritonKernel, ...]:
        from sparse_triton.build import parts_of

        kernels = (self.turn_x, self.gather, self.turn_y)
        return tuple(part for k in kernels if k is not None for part in parts_of(k))

    def bind(self, device: torch.device) -> Run:
        p, gather = self.problem, self.gather.bind(device)
        turn_x = None if self.turn_x is None else self.turn_x.bind(device)
        turn_y = None if self.turn_y is None else self.turn_y.bind(device)

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            if turn_x is not None:
                turned = torch.empty((p.batch, p.K, p.N), dtype=X.dtype, device=X.device)
                turn_x(X, turned, None, None)
                X = turned
            if turn_y is None:
                gather(X, Y, bias, residual)
                return
            rows = torch.empty((p.batch, p.M, p.N), dtype=Y.dtype, device=Y.device)
            gather(X, rows, bias, residual)
            turn_y(rows, Y, None, None)

        return run
