"""Family ``pairs``: unstructured zeros on sparse tensor cores, near float32's accuracy.

``limits`` (tile and legality) -> ``estimate`` (the default) -> ``matching`` (which columns share a
slot) -> ``pack`` (fragments) -> ``ring``, ``stage``, ``products``, ``asm``: what warps do, as PTX
-> ``kernel``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.pairs.estimate import config_of, fastest, ways
from sparse_triton.kernels.pairs.limits import pairs_why_not
from sparse_triton.kernels.tf32x3.split import split
from sparse_triton.problem import SpmmProblem

WORTHWHILE_COLUMNS = 1024


class Pairs(Family):
    name = "pairs"
    device_kind = "cuda"
    arithmetic = "tf32_bf16"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return pairs_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        """Fields of the ways, ten combinations at most; only the default where columns are few."""
        many = problem.N * problem.batch >= WORTHWHILE_COLUMNS
        tiles = [way.tile for way in ways(problem, device)] if many else []
        configs = [self.default_config(problem, device), *(config_of(problem, t) for t in tiles)]
        fields = ("M_blocks", "N_blocks")
        return {name: tuple({getattr(c, name): None for c in configs}) for name in fields}

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """The way that ``estimate`` finds fastest."""
        return fastest(problem, device)

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.pairs.kernel import pairs_source

        return compile_kernel(pairs_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Halves as a tensor core reads them; float32 sums."""
        w, x = split(plan.csr.to_dense()), split(X)
        small = in_half(w.low) @ in_half(X) + in_half(w.high) @ in_half(x.low)
        return np.asarray(w.high @ x.high + small)


def in_half(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest bfloat16."""
    half: NDArray[np.float32] = torch.from_numpy(x).bfloat16().float().numpy()
    return half
