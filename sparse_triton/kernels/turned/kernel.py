"""The Triton kernel that turns token-major X, and Y back."""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import (
    LAUNCH_DEPENDENTS,
    WAIT_FOR_INPUTS,
    has_dependent_launch,
)

TILE = 32
WAIT = f"{LAUNCH_DEPENDENTS} {WAIT_FOR_INPUTS} mov.b32 $0, $1;"


@triton.jit
def turn_columns(  # type: ignore[no-untyped-def]
    x, y, bias, residual, anchor, N, K,
    TILE: tl.constexpr, WAIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    if WAIT != "":  # every address depends on what it returns: nothing is touched before
        n = tl.inline_asm_elementwise(WAIT, "=r,r", [n], dtype=tl.int32, is_pure=False, pack=1)
    o_n = n * TILE + tl.arange(0, TILE)
    o_k = tl.program_id(1) * TILE + tl.arange(0, TILE)
    first = tl.program_id(2).to(tl.int64) * N * K
    inside = (o_n < N)[:, None] & (o_k < K)[None, :]
    tile = tl.load(x + first + o_n[:, None] * K + o_k[None, :], mask=inside)  # [TILE, TILE]
    p_y = y + first + o_k[:, None] * N + o_n[None, :]
    tl.store(p_y, tl.trans(tile), mask=tl.trans(inside))


def turn_source(
    N: int, K: int, batch: int, dtype: str, arch: int, naive: bool = False
) -> KernelSource:
    """Kernel ``y[b, k, n] = x[b, n, k]``.

    Shapes   x [batch, N, K], y [batch, K, N].
    Grid     tiles of N x tiles of K x batch.
    Cost     x is read once and y written once, both by whole lines.

    ``naive`` leaves out what the interpreter cannot run: the waiting of a dependent launch.
    """
    dependent = has_dependent_launch(arch) and not naive
    return KernelSource(
        fn=turn_columns,
        constants={
            "TILE": TILE,
            "WAIT": WAIT if dependent else "",
            "HAS_BIAS": False,
            "HAS_RESIDUAL": False,
        },
        x_dtype=dtype,
        arrays={"anchor": np.zeros(1, np.int32)},  # a launch takes its device from an array
        scalars={"N": N, "K": K},
        grid=(ceil_div(N, TILE), ceil_div(K, TILE), batch),
        num_warps=4,
        options={"launch_pdl": dependent},
    )
