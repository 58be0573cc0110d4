"""The error law every kernel is held to, derived and elementwise.

A dot product of ``n`` terms in precision ``u``, summed in any order, is off by at most
``gamma(n) * sum |w_k x_k|`` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
Bias and residual are two more terms; ``Gy`` partial sums add ``Gy`` more roundings. Rounding to the
output type and the activation's own error come on top; so does one smallest subnormal for every
rounding, because a result that underflows is rounded absolutely.

Where ``accumulate="float16"`` is taken, a product w_k x_k meets at most ``HALF_CHUNK`` roundings
of u = 2**-11 in its float16 sum, one more where W is float32 and rounded to float16. Each partial
is then exact in float32 and meets the float32 roundings as before, so that the factors multiply:
``(1 + gamma16)(1 + gamma32) - 1``. Weights that are no normal float16 numbers are multiplied in
float32. Range: right while ``|W| @ |X| < HALF_RANGE``; beyond, a partial may overflow to Inf.

Arithmetic "tf32x3" (family ``tf32x3``): float32 products on TF32 tensor cores. w = w1 + w2 with w1
rounded to 11 bits, so |w2| <= 2**-11 |w| has 12 bits, or is a power of two; read as 11 bits, it is
off by at most one last place of w, 2u |w|. The same for x. Of w x = w1 x1 + w1 x2 + w2 x1 + w2 x2
the last, at most 2**-22 |w x| = 4u |w x|, is dropped: with the two cuts, at most 9u |w x|. A tensor
core adds exact products to a sum by aligning them to the largest, cutting each to 24 bits or more,
and cutting the result (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores,
2021). Of a step with j > 0 non-zero products that is at most j cuts of addends (the largest stays
whole) and one of the result, 2j in all; cutting loses up to 2u of a value that is no larger than
the row's sum of magnitudes: 4u for each non-zero. The small products w1 x2 and w2 x1 are added up
apart and are 2**-10 of the others: another u/64 for each, as are the roundings up of w1 and x1. So
5 for each non-zero, 9 for the split and 1 where the two sums meet. The law needs |w| and |x| that
are zero or at least 2**-102, or else the halves underflow, and at most 2**127.

Arithmetic "tf32_bf16" (family ``pairs``): w x = w1 x1 + w1 x2 + w2 x, where the factors of the last
two products are rounded to bfloat16: each to 8 bits, so that either product, at most 2**-11 |w x|,
is off by 2**-7 of that and little more: with both at most 129u |w x|, which takes the place of 9u.
All three may go to one sum: three times the cuts, 12u for each non-zero instead of 4u, so that 13
takes the place of 5.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST_SUBNORMAL = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
ACTIVATIONS = ("relu", "gelu", "silu")
Arithmetic = Literal["float32", "tf32x3", "tf32_bf16"]
# Roundings for each non-zero of a row, and once.
_ROUNDINGS: dict[Arithmetic, tuple[int, int]] = {
    "float32": (1, 0), "tf32x3": (5, 10), "tf32_bf16": (13, 130),
}  # fmt: skip

HALF_CHUNK = 16  # products that a float16 sum holds before it is added to a float32 one
_HALF_NORMAL, _HALF_MAX = 2.0**-14, 65504.0

# Largest slope of each activation: what an error in its argument can grow by.
_SLOPE = {None: 1.0, "relu": 1.0, "gelu": 1.13, "silu": 1.1}
# Rounding of the activation itself relative to |argument|, in units of u: exp, erf, a division.
_OWN_ROUNDINGS = {None: 0, "relu": 0, "gelu": 16, "silu": 16}


def gamma(n: int | NDArray[np.int64], u: float = 2.0**-24) -> Any:
    """``n*u / (1 - n*u)``: the classical constant for n roundings of unit roundoff u."""
    nu = np.asarray(n, dtype=np.float64) * u
    return nu / (1.0 - nu)


# No sum of products below it can round to Inf: each grows by at most 1 + gamma.
HALF_RANGE = _HALF_MAX / (1.0 + float(gamma(HALF_CHUNK + 1, UNIT_ROUNDOFF["float16"])))


def fits_half(weight: float) -> bool:
    """Whether float16 holds a weight to full precision: a normal number, neither NaN nor Inf."""
    return _HALF_NORMAL <= abs(weight) <= _HALF_MAX


def activate(y: Float64, activation: str | None) -> Float64:
    """The activation in float64, as ``torch.nn.functional`` defines it (GELU exact, with erf)."""
    match activation:
        case None:
            return y
        case "relu":
            return np.where(np.isnan(y), y, np.maximum(y, 0.0))
        case "gelu":
            import torch

            return np.asarray(torch.nn.functional.gelu(torch.from_numpy(y)).numpy())
        case "silu":
            import torch

            return np.asarray(torch.nn.functional.silu(torch.from_numpy(y)).numpy())
    raise AssertionError(activation)


def error_bound(
    nnz_row: NDArray[np.int64],
    magnitude: Float64,
    y64: Float64,
    *,
    Gy: int = 1,
    y_dtype: str = "float32",
    activation: str | None = None,
    roundings: int = 1,
    step: int = 1,
    half_roundings: int = 0,
    arithmetic: Arithmetic = "float32",
) -> Float64:
    """Largest legal ``|y - y64|``, elementwise.

    nnz_row    [M] non-zeros of each row
    magnitude  [..., M, N] ``|W| @ |X| + |bias| + |residual|`` in float64
    y64        [..., M, N] the true result, after the activation
    Gy         partial sums added at the end
    roundings  roundings to y_dtype on the way: 2 where the product was stored before the epilogue
    step       units of roundoff an addition may lose: 1 rounded, 2 truncated, as tensor cores do
    half_roundings
               most roundings to float16 that a product meets on its way into a float32 sum; 0 where
               all accumulation is float32
    arithmetic how products are made and added
    """
    rows = np.asarray(nnz_row, dtype=np.int64)[:, None]
    each, once = _ROUNDINGS[arithmetic]
    terms = step * each * rows + once + Gy + 2
    in_sums = gamma(terms)
    if half_roundings:
        in_half = np.minimum(rows + 1, half_roundings)
        in_sums = in_sums + (1.0 + in_sums) * gamma(in_half, UNIT_ROUNDOFF["float16"])
    in_sums = in_sums * magnitude
    own = _OWN_ROUNDINGS[activation] * UNIT_ROUNDOFF["float32"] * magnitude
    before_store = _SLOPE[activation] * in_sums + own
    store = UNIT_ROUNDOFF[y_dtype] if y_dtype != "float32" else 0.0
    bound = before_store * (1.0 + store) + store * np.abs(y64)
    bound += (roundings - 1) * store * _SLOPE[activation] * magnitude
    smallest = SMALLEST_SUBNORMAL["float16" if half_roundings else "float32"]
    underflow = terms * smallest * _SLOPE[activation]
    return np.asarray(bound + underflow + SMALLEST_SUBNORMAL[y_dtype])
