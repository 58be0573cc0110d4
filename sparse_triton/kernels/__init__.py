"""The kernel families, by name. Each is one object behind ``family.Family``."""

from __future__ import annotations

from sparse_triton.kernels.cpu import Cpu
from sparse_triton.kernels.dense import Dense
from sparse_triton.kernels.family import Family
from sparse_triton.kernels.gather import Gather
from sparse_triton.kernels.unrolled import Unrolled

FAMILIES: dict[str, Family] = {f.name: f for f in (Unrolled(), Gather(), Dense(), Cpu())}
