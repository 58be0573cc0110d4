"""What every Triton family does with its sums before they are stored."""

from __future__ import annotations

import triton
import triton.language as tl


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
    acc, rows, o_y, mask, bias, residual,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """bias -> residual -> activation; ``rows`` broadcasts over ``acc``, ``o_y`` are Y's offsets."""
    if HAS_BIAS:
        acc += tl.load(bias + rows, mask=rows >= 0, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        acc += tl.load(residual + o_y, mask=mask, other=0.0).to(tl.float32)
    return activate(acc, ACTIVATION)
