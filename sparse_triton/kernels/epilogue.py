"""What every Triton family does with its sums: bias, residual, activation, store."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from sparse_triton.problem import Epilogue

NO_POLICY = tl.constexpr("")


def epilogue_constants(epilogue: Epilogue) -> dict[str, Any]:
    """What a kernel's epilogue is specialised on."""
    return {
        "HAS_BIAS": epilogue.bias,
        "HAS_RESIDUAL": epilogue.residual,
        "ACTIVATION": epilogue.activation,
    }


@triton.constexpr_function
def f32s(n):  # type: ignore[no-untyped-def]
    """n float32 types: the outputs of an inline assembly."""
    return (tl.float32,) * n


@triton.jit
def activate(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """relu, gelu (exact, with erf) or silu of a float32 tensor; NaN stays NaN."""
    if ACTIVATION == "relu":
        y = tl.where(y < 0, 0.0, y)
    elif ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif ACTIVATION == "silu":
        y = y / (1.0 + tl.exp(-y))
    return y


@triton.jit
def finish(  # type: ignore[no-untyped-def]
    acc, row, o_y, mask, bias, residual,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """bias -> residual -> activation of ``acc``; ``row`` is its row, ``o_y`` its offset in Y."""
    if HAS_BIAS:
        acc += tl.load(bias + row, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        acc += tl.load(residual + o_y, mask=mask, other=0.0).to(tl.float32)
    return activate(acc, ACTIVATION)


@triton.jit
def store_row(  # type: ignore[no-untyped-def]
    y, sums, row, o_y, stride_yn, mask, bias, residual, FIRST: tl.constexpr, VECTOR: tl.constexpr,
    PAIRED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, EVICTION: tl.constexpr = NO_POLICY,
):  # fmt: skip
    """Finish and store ``sums[FIRST : FIRST + VECTOR]``: a lane's adjacent columns of one row each.

    PAIRED    columns are adjacent in memory too, and go out two at a time
    EVICTION  Triton's name for when their lines leave the caches
    """
    if PAIRED and VECTOR > 1:
        for j in tl.static_range(VECTOR // 2):
            a = finish(sums[FIRST + 2 * j], row, o_y + 2 * j, mask, bias, residual,
                       HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
            b = finish(sums[FIRST + 2 * j + 1], row, o_y + 2 * j + 1, mask, bias, residual,
                       HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
            store_pair(y + o_y + 2 * j, a, b, mask, EVICTION)
    else:
        for j in tl.static_range(VECTOR):
            o = o_y + j * stride_yn
            a = finish(sums[FIRST + j], row, o, mask, bias, residual,
                       HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
            tl.store(y + o, a.to(y.dtype.element_ty), mask=mask, eviction_policy=EVICTION)


@triton.jit
def store_pair(p_y, a, b, mask, EVICTION: tl.constexpr = NO_POLICY):  # type: ignore[no-untyped-def]
    """Two adjacent elements in one store: as one integer of twice their width, low half first."""
    if p_y.dtype.element_ty == tl.float32:
        low = a.to(tl.uint32, bitcast=True).to(tl.uint64)
        high = b.to(tl.uint32, bitcast=True).to(tl.uint64)
        pair, p_pair = low | (high << 32), p_y.to(tl.pointer_type(tl.uint64), bitcast=True)
    else:
        low = a.to(p_y.dtype.element_ty).to(tl.uint16, bitcast=True).to(tl.uint32)
        high = b.to(p_y.dtype.element_ty).to(tl.uint16, bitcast=True).to(tl.uint32)
        pair, p_pair = low | (high << 16), p_y.to(tl.pointer_type(tl.uint32), bitcast=True)
    tl.store(p_pair, pair, mask=mask, eviction_policy=EVICTION)
