"""The kernel families, by name. Each is one object behind ``family.Family``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sparse_triton.kernels.conv.families import GatherConv, UnrolledConv
from sparse_triton.kernels.cpu import Cpu
from sparse_triton.kernels.cpu_conv import CpuConv
from sparse_triton.kernels.decode import Decode
from sparse_triton.kernels.dense import Dense
from sparse_triton.kernels.dense_conv import DenseConv
from sparse_triton.kernels.family import Family
from sparse_triton.kernels.gather import Gather
from sparse_triton.kernels.pairs import Pairs
from sparse_triton.kernels.tf32x3 import Tf32x3
from sparse_triton.kernels.turned import Turned
from sparse_triton.kernels.unrolled import Unrolled
from sparse_triton.problem import ConvProblem, ProblemT

FAMILIES: dict[str, Family] = {
    f.name: f for f in (Unrolled(), Gather(), Turned(), Decode(), Tf32x3(), Pairs(), Dense(), Cpu())
}
CONV_FAMILIES: dict[str, Family[ConvProblem]] = {
    f.name: f for f in (UnrolledConv(), GatherConv(), DenseConv(), CpuConv())
}

_OF_KIND: dict[str, Mapping[str, Family[Any]]] = {"spmm": FAMILIES, "conv": CONV_FAMILIES}


def families_of(problem: ProblemT) -> Mapping[str, Family[ProblemT]]:
    """The families that exist for this kind of problem."""
    return cast("Mapping[str, Family[ProblemT]]", _OF_KIND[problem.kind])
