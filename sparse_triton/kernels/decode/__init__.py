"""Family ``decode``: few columns, 16-bit weights: bound by the bytes of W, so they are compressed.

``limits`` (shape and legality) -> ``pack`` with ``fill`` (the weight as interleaved lists of
indices and values) -> ``walk`` (the inner loop in PTX) -> ``walk_kernel`` (the Triton kernel around
it); or ``bitmap_pack`` -> ``bitmap`` -> ``bitmap_kernel`` (expanded for the tensor cores).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, ceil_div, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.decode.bitmap_pack import records_for, unpack
from sparse_triton.kernels.decode.limits import (
    BITMAP_BLOCK_ROWS,
    BLOCK_ROWS,
    STATIC_SHARED_BYTES,
    bitmap_shape,
    decode_why_not,
)
from sparse_triton.kernels.decode.pack import entries_of, lists_for
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.partition import NO_ROW
from sparse_triton.problem import SpmmProblem


class Decode(Family):
    name = "decode"
    device_kind = "cuda"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return decode_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {
            "M_blocks": tuple(
                max(1, ceil_div(problem.M, m)) for m in sorted({*BLOCK_ROWS, *BITMAP_BLOCK_ROWS})
            ),
            "N_blocks": tuple(n for n in (1, 2, 4) if n <= problem.N),
            "Gy": (1, 2, 4, 8, 16, 32, 64, 128),
            "row_blocks": ("sorted",),
            "prefetch": (2, 3, 4, 6, 8),
            "format": ("gaps4", "gaps8", "columns16", "bitmap"),
            "fastest": ("columns",) if problem.N > 1 else ("rows",),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Fitted to measurements (``benchmarks/NOTES.md``): lists for up to 4 columns, and for more
        where few entries are left to gather X for; else a bitmap and tensor cores."""
        vector = min(8, next_power_of_two(problem.N))
        fits = 2 * problem.K * vector <= device.shared_bytes - STATIC_SHARED_BYTES
        can_expand = problem.x_dtype == problem.w_dtype and BLOCK_ROWS[0] < problem.M
        few = 0.78 if problem.N <= 8 else 0.9
        if ceil_div(problem.M, 32) > 4 * device.cores:
            few = (1 + few) / 2
        if vector <= 4 or not can_expand or (fits and problem.sparsity >= few):
            return _walk_config(problem, device)
        return _bitmap_config(problem, device)

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.decode.kernel import decode_source

        return compile_kernel(decode_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        if plan.config.format == "bitmap":
            return _bitmap_reference(plan, X)
        lists = lists_for(plan)
        Y = np.full((plan.problem.M, X.shape[1]), np.nan, dtype=np.float32)
        for (block, place), row in np.ndenumerate(lists.rows):
            if row != NO_ROW:
                columns, bits = entries_of(lists, block, place)
                Y[row] = _float32(bits, plan.problem.w_dtype) @ X[columns]
        return Y


def _walk_config(problem: SpmmProblem, device: Device) -> KernelConfig:
    """32 rows, fewer where the device would be half empty; as many threads as let all programs run
    at once and as many steps ahead as they leave registers for."""
    block_m = 32
    while block_m > 8 and 2 * ceil_div(problem.M, block_m) < device.cores:
        block_m //= 2
    blocks = ceil_div(problem.M, block_m)
    vector = min(8, next_power_of_two(problem.N))
    while vector > 1 and 2 * problem.K * vector > device.shared_bytes - STATIC_SHARED_BYTES:
        vector //= 2
    if 2.4 * device.cores <= blocks <= 3 * device.cores:
        threads, prefetch = 256, {1: 8, 2: 6, 4: 6, 8: 3}[vector]
    elif vector in (2, 4) and blocks <= device.cores:
        threads, prefetch = 1024, 2
    else:
        threads, prefetch = 512, {1: 8, 2: 4, 4: 4, 8: 2}[vector]
    return KernelConfig(
        "decode",
        M_blocks=blocks,
        N_blocks=ceil_div(problem.N, vector),
        Gy=threads // block_m,
        row_blocks="sorted",
        prefetch=prefetch,
        format="gaps8" if problem.sparsity > 0.85 else "gaps4",
        fastest="columns",
    )


def _bitmap_config(problem: SpmmProblem, device: Device) -> KernelConfig:
    """32 rows, 16 where the device would be half empty; 16 warps a program, and 8 where programs
    are many: then more of them run at once."""
    waves = ceil_div(problem.M, 32) / device.cores
    block_m, Gy, stages = 32, 16, 3
    if waves <= 1:
        block_m, Gy = (32, 32) if problem.N > 8 and problem.sparsity < 0.6 else (16, 16)
    elif waves > 4:
        Gy = 8
    elif waves > 2 and problem.sparsity < 0.6:
        Gy, stages = 8, 6
    return KernelConfig(
        "decode",
        M_blocks=ceil_div(problem.M, block_m),
        Gy=Gy,
        row_blocks="sorted",
        prefetch=stages,
        format="bitmap",
        fastest="columns",
    )


def _bitmap_reference(plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
    K = plan.problem.K
    records, shape = records_for(plan), bitmap_shape(plan.problem, plan.config)
    strips = ceil_div(K, shape.width)
    Y = np.full((plan.problem.M, X.shape[1]), np.nan, dtype=np.float32)
    for unit, rows in enumerate(records.rows.reshape(-1, shape.rows)):
        bits = unpack(records, shape, unit, strips)
        there = rows != NO_ROW
        Y[rows[there]] = (_float32(bits, plan.problem.w_dtype)[:, :K] @ X)[there]
    return Y


def _float32(bits: NDArray[np.int16], w_dtype: str) -> NDArray[np.float32]:
    if w_dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
