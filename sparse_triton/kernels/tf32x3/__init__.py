"""Family ``tf32x3``: dense tiles on tensor cores at float32's accuracy, three TF32 products each.

``limits`` (tile and legality) -> ``estimate`` (the default) -> ``split`` (the weight in two halves)
-> ``kernel``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.tf32x3.estimate import fastest
from sparse_triton.kernels.tf32x3.limits import BLOCK_MS, BLOCK_NS, tf32x3_why_not
from sparse_triton.kernels.tf32x3.split import cut, split
from sparse_triton.problem import SpmmProblem

WORTHWHILE_COLUMNS, WORTHWHILE_SPARSITY = 1024, 0.9


class Tf32x3(Family):
    name = "tf32x3"
    device_kind = "cuda"
    arithmetic = "tf32x3"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return tf32x3_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        """36 at most, and only the default where three times the dense work is a long shot."""
        if problem.N * problem.batch < WORTHWHILE_COLUMNS or problem.sparsity > WORTHWHILE_SPARSITY:
            config = self.default_config(problem, device)
            fields = ("M_blocks", "N_blocks", "prefetch", "fastest")
            return {n: (getattr(config, n),) for n in fields}
        return {
            "M_blocks": tuple({max(1, ceil_div(problem.M, m)): None for m in BLOCK_MS}),
            "N_blocks": tuple({max(1, ceil_div(problem.N, n)): None for n in BLOCK_NS}),
            "prefetch": (2, 3, 4),
            "fastest": ("rows", "columns"),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """The tile that ``estimate`` finds fastest."""
        return fastest(problem, device)

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.tf32x3.kernel import tf32x3_source

        return compile_kernel(tf32x3_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Halves as a tensor core reads them; float32 sums."""
        w, x = split(plan.csr.to_dense()), split(X)
        small = cut(x.low).T @ w.high.T + x.high.T @ cut(w.low).T
        return np.asarray((x.high.T @ w.high.T + small).T)
