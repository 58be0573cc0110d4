"""The error law every kernel is held to, derived and elementwise.

A dot product of ``n`` terms in precision ``u``, summed in any order, is off by at most
``gamma(n) * sum |w_k x_k|`` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
Bias and residual are two more terms; ``Gy`` partial sums add ``Gy`` more roundings. Rounding to the
output type and the activation's own error come on top; so does one smallest subnormal for every
rounding, because a result that underflows is rounded absolutely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST_SUBNORMAL = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
ACTIVATIONS = ("relu", "gelu", "silu")

# Largest slope of each activation: what an error in its argument can grow by.
_SLOPE = {None: 1.0, "relu": 1.0, "gelu": 1.13, "silu": 1.1}
# Rounding of the activation itself relative to |argument|, in units of u: exp, erf, a division.
_OWN_ROUNDINGS = {None: 0, "relu": 0, "gelu": 16, "silu": 16}


def gamma(n: int | NDArray[np.int64], u: float = 2.0**-24) -> Any:
    """``n*u / (1 - n*u)``: the classical constant for n roundings of unit roundoff u."""
    nu = np.asarray(n, dtype=np.float64) * u
    return nu / (1.0 - nu)


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
) -> Float64:
    """Largest legal ``|y - y64|``, elementwise, for fp32 accumulation.

    nnz_row    [M] non-zeros of each row
    magnitude  [..., M, N] ``|W| @ |X| + |bias| + |residual|`` in float64
    y64        [..., M, N] the true result, after the activation
    Gy         partial sums added at the end
    roundings  roundings to y_dtype on the way: 2 where the product was stored before the epilogue
    step       units of roundoff an addition may lose: 1 rounded, 2 truncated, as tensor cores do
    """
    terms = (step * np.asarray(nnz_row, dtype=np.int64) + Gy + 2)[:, None]
    in_fp32 = gamma(terms) * magnitude
    own = _OWN_ROUNDINGS[activation] * UNIT_ROUNDOFF["float32"] * magnitude
    before_store = _SLOPE[activation] * in_fp32 + own
    store = UNIT_ROUNDOFF[y_dtype] if y_dtype != "float32" else 0.0
    bound = before_store * (1.0 + store) + store * np.abs(y64)
    bound += (roundings - 1) * store * _SLOPE[activation] * magnitude
    underflow = terms * SMALLEST_SUBNORMAL["float32"] * _SLOPE[activation]
    return np.asarray(bound + underflow + SMALLEST_SUBNORMAL[y_dtype])
