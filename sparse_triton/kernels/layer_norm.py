"""Layer normalisation whose Y has either memory format: it takes a turning along."""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, next_power_of_two
from sparse_triton.kernels.columns import LAUNCH_DEPENDENTS, WAIT_FOR_INPUTS, has_dependent_launch

TOKENS = 4  # of a program: 16 bytes of float32 where a feature's values are adjacent
MOST_FEATURES = 4096
THREAD_ELEMENTS = 4
ANCHOR = {"anchor": np.zeros(1, np.int32)}  # a launch takes its device from an array
WAIT = f"{LAUNCH_DEPENDENTS} {WAIT_FOR_INPUTS} mov.b32 $0, $1;"


@triton.jit
def normalise_layer(  # type: ignore[no-untyped-def]
    x, y, bias, residual, anchor, N, K,
    FEATURE_MAJOR: tl.constexpr, EPS: tl.constexpr, SHARE: tl.constexpr,
    TOKENS: tl.constexpr, FEATURES: tl.constexpr, WAIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(0)
    o_k = tl.arange(0, FEATURES)
    real = o_k < K
    # Parameters are asked for first: they do not wait for the kernel before.
    if HAS_RESIDUAL:
        gain = tl.load(residual + o_k, mask=real, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        shift = tl.load(bias + o_k, mask=real, other=0.0).to(tl.float32)[None, :]
    if WAIT != "":  # the address of every value depends on what it returns
        i_n = tl.inline_asm_elementwise(WAIT, "=r,r", [i_n], dtype=tl.int32, is_pure=False, pack=1)
    o_n = i_n.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    inside = (o_n < N)[:, None] & real[None, :]
    p_x = x + o_n[:, None] * K + o_k[None, :]
    values = tl.load(p_x, mask=inside, other=0.0).to(tl.float32)  # [TOKENS, FEATURES]
    mean = tl.sum(values, axis=1) * SHARE
    centred = tl.where(real[None, :], values - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) * SHARE
    normal = centred * tl.rsqrt(variance + EPS)[:, None]
    if HAS_RESIDUAL:
        normal *= gain
    if HAS_BIAS:
        normal += shift
    if FEATURE_MAJOR:
        p_y = y + o_k[None, :] * N + o_n[:, None]
    else:
        p_y = y + o_n[:, None] * K + o_k[None, :]
    tl.store(p_y, normal.to(y.dtype.element_ty), mask=inside)


def layer_norm_source(
    N: int, K: int, feature_major: bool, dtype: str, eps: float, has_gain: bool, has_bias: bool,
    arch: int, naive: bool = False,
) -> KernelSource:  # fmt: skip
    """Kernel ``y[n] = (x[n] - mean) / sqrt(variance + eps) * gain + bias`` over K features.

    Shapes   x [N, K], y [N, K] contiguous or feature-major; gain and bias [K]; the gain goes in as
             the launch's ``residual``.
    Grid     tiles of ``TOKENS`` tokens; a program holds all features of its tokens.
    Cost     x is read once and y written once. So little is done that fetching the code decides:
             many warps, few elements a thread, no division.
    Error    sums are float32, of values less their mean: as PyTorch's own.

    ``naive`` leaves out what the interpreter cannot run: the waiting of a dependent launch.
    """
    dependent = has_dependent_launch(arch) and not naive
    features = next_power_of_two(K)
    warps = next_power_of_two(TOKENS * features // (32 * THREAD_ELEMENTS))
    return KernelSource(
        fn=normalise_layer,
        constants={
            "FEATURE_MAJOR": feature_major,
            "EPS": eps,
            "SHARE": 1.0 / K,
            "TOKENS": TOKENS,
            "FEATURES": features,
            "WAIT": WAIT if dependent else "",
            "HAS_BIAS": has_bias,
            "HAS_RESIDUAL": has_gain,
        },
        x_dtype=dtype,
        arrays=ANCHOR,
        scalars={"N": N, "K": K},
        grid=(ceil_div(N, TOKENS), 1, 1),
        num_warps=min(16, max(1, warps)),
        options={"launch_pdl": dependent},
    )
