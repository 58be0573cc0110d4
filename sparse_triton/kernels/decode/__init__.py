"""Family ``decode``: few columns, 16-bit weights: bound by the bytes of W, so they are compressed.

``limits`` (shape and legality) -> ``pack`` with ``fill`` (the weight as interleaved lists of gaps
and values) -> ``walk`` (the inner loop in PTX) -> ``kernel`` (the Triton kernel around it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.decode.limits import BLOCK_ROWS, decode_why_not
from sparse_triton.kernels.decode.pack import entries_of, lists_for
from sparse_triton.kernels.family import Family, Space
from sparse_triton.partition import NO_ROW
from sparse_triton.problem import SpmmProblem

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


class Decode(Family):
    name = "decode"
    device_kind = "cuda"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return decode_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {
            "M_blocks": tuple(max(1, ceil_div(problem.M, m)) for m in BLOCK_ROWS),
            "N_blocks": tuple(n for n in (1, 2, 4) if n <= problem.N),
            "Gy": (1, 2, 4, 8, 16, 32, 64, 128),
            "row_blocks": ("sorted",),
            "prefetch": (2, 3, 4, 6, 8),
            "gap_bits": (4, 8),
            "chunk": (0, 256, 512, 1024, 2048, 4096),
            "fastest": ("columns",) if problem.N > 1 else ("rows",),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Fitted to measurements (``benchmarks/NOTES.md``): a walk for up to 4 columns, tensor
        cores from 5 on; 8-bit gaps where 4 bits would bridge one in six."""
        gap_bits = 8 if problem.sparsity > 0.85 else 4
        if problem.N > 4 and problem.x_dtype == problem.w_dtype and problem.M > 8:
            return _expand_config(problem, gap_bits)
        return _walk_config(problem, device, gap_bits)

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.decode.kernel import decode_source

        return compile_kernel(decode_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        lists = lists_for(plan)
        Y = np.full((plan.problem.M, X.shape[1]), np.nan, dtype=np.float32)
        for (block, place), row in np.ndenumerate(lists.rows):
            if row != NO_ROW:
                chunks = [entries_of(lists, block, c, place) for c in range(lists.chunks)]
                width = plan.config.chunk
                columns = np.concatenate([c * width + at for c, (at, _) in enumerate(chunks)])
                bits = np.concatenate([b for _, b in chunks])
                Y[row] = _float32(bits, plan.problem.w_dtype) @ X[columns]
        return Y


def _walk_config(problem: SpmmProblem, device: Device, gap_bits: int) -> KernelConfig:
    """32 rows and 512 threads, eight steps ahead; fewer rows where the device would be half empty,
    half the threads where all programs then run at once."""
    block_m = 32
    while block_m > 8 and 2 * ceil_div(problem.M, block_m) < device.cores:
        block_m //= 2
    blocks = ceil_div(problem.M, block_m)
    vector = min(8, next_power_of_two(problem.N))
    while vector > 1 and 2 * problem.K * vector > device.shared_bytes - 4096:
        vector //= 2
    at_once = 2.4 * device.cores <= blocks <= 3 * device.cores
    threads = 256 if at_once and vector == 1 else 512
    return KernelConfig(
        "decode",
        M_blocks=blocks,
        N_blocks=ceil_div(problem.N, vector),
        Gy=threads // block_m,
        row_blocks="sorted",
        prefetch={1: 8, 2: 6, 4: 4}.get(vector, 2),
        gap_bits=gap_bits,
        fastest="columns",
    )


def _expand_config(problem: SpmmProblem, gap_bits: int) -> KernelConfig:
    """16 rows and 256 threads; chunks of 1024 columns, as many steps ahead as one has for a
    thread."""
    block_m, Gy, chunk = 16, 16, 1024
    entries = (1 - problem.sparsity) * chunk / Gy
    return KernelConfig(
        "decode",
        M_blocks=ceil_div(problem.M, block_m),
        Gy=Gy,
        row_blocks="sorted",
        prefetch=max(2, min(8, round(entries / 8 * 1.1 + 0.6))),
        gap_bits=gap_bits,
        fastest="columns",
        chunk=chunk,
    )


def _float32(bits: NDArray[np.int16], w_dtype: str) -> NDArray[np.float32]:
    if w_dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
