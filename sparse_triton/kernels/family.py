"""The interface of a kernel family, and of what it is asked to build.

One object a family; adding one touches one file or folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.numerics import Arithmetic
from sparse_triton.pattern import CSR
from sparse_triton.problem import ProblemT

Space = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Plan(Generic[ProblemT]):
    """What to build: legal by construction, made by ``plan.plan_spmm`` alone."""

    problem: ProblemT
    config: KernelConfig
    csr: CSR
    device: Device
    family: Family[ProblemT]


class Family(ABC, Generic[ProblemT]):
    """What a family must say about itself; ProblemT is ``SpmmProblem`` or ``ConvProblem``."""

    name: str
    device_kind: str  # "cuda", "cpu" or "any"
    compiles_weight: bool = False  # whether compiling takes longer for more non-zeros
    arithmetic: Arithmetic = "float32"  # how its sums are rounded, see ``numerics``

    @abstractmethod
    def why_not(self, problem: ProblemT, config: KernelConfig, device: Device) -> str | None:
        """Why the configuration cannot work (law, values, remedy), or None: it can."""

    @abstractmethod
    def space(self, problem: ProblemT, device: Device) -> Space:
        """Candidate values of every field of ``KernelConfig`` this family listens to."""

    @abstractmethod
    def default_config(self, problem: ProblemT, device: Device) -> KernelConfig:
        """The heuristic choice; legal wherever any configuration of the family is."""

    @abstractmethod
    def build(self, plan: Plan[ProblemT]) -> Kernel:
        """Generate and compile. Touches no tensor, launches nothing, needs no GPU."""

    @abstractmethod
    def reference(self, plan: Plan[ProblemT], X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Meaning of the plan's decomposition in NumPy, before the epilogue: W @ X [M, N]; of a
        convolution, [M, P, Q] of one image X [C, H, W]."""
