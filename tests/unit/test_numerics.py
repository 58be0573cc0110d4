"""The bound holds for float32 sums in any order, and not for wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix, numerics, verify
from sparse_triton.config import KernelConfig
from tests.strategies import DTYPES, dense_weights
from tests.support import dense_weight, weight


def fp32_product(W: SparseMatrix, X: np.ndarray, seed: int) -> np.ndarray:
    """Stored products, rounded, added one at a time in a random order."""
    rng = np.random.default_rng(seed)
    Y = np.zeros((W.shape[0], X.shape[1]), dtype=np.float32)
    csr = W.csr
    for i in rng.permutation(csr.nnz):
        Y[csr.rows[i]] += csr.values[i] * X[csr.column_indices[i]]
    return Y


@given(w=dense_weights(most=24), seed=st.integers(0, 99), y_dtype=st.sampled_from(DTYPES))
def test_any_order_is_within_the_bound(w: torch.Tensor, seed: int, y_dtype: torch.dtype) -> None:
    W = SparseMatrix.from_dense(w)
    X = torch.randn(W.shape[1], 3, generator=torch.Generator().manual_seed(seed)).to(y_dtype)
    Y = torch.from_numpy(fp32_product(W, X.float().numpy(), seed))
    assert verify.worst_ratio(Y.to(y_dtype), W, X) <= 1.0


@pytest.mark.parametrize("y_dtype", DTYPES)
@pytest.mark.parametrize("pattern", ["random", "ragged", "one", "full"])
def test_a_dropped_weight_is_seen(pattern: str, y_dtype: torch.dtype) -> None:
    W = weight(pattern, 12, 20, 0.3, seed=1)
    X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).to(y_dtype)
    for drop in range(0, W.nnz, 7):
        damaged = W.to_dense().clone()
        damaged[W.csr.rows[drop], W.column_indices[drop]] = 0
        Y = fp32_product(SparseMatrix.from_dense(damaged), X.float().numpy(), 0)
        assert verify.worst_ratio(torch.from_numpy(Y).to(y_dtype), W, X) > 1.0


def test_the_bound_is_tight_enough_to_see_one_bad_bit() -> None:
    W = SparseMatrix.from_dense(dense_weight("random", 12, 40, 0.2).abs())
    X = torch.rand(40, 5) + 1
    Y = torch.from_numpy(fp32_product(W, X.numpy(), 0))
    assert verify.worst_ratio(Y, W, X) <= 1.0
    row = int(W.csr.row_lengths.argmax())
    assert verify.worst_ratio(Y * (1 + 2.0**-18), W, X) > 1.0
    Y[row, 2] = np.nextafter(np.float16(Y[row, 2].item()), np.float16(np.inf)).item()
    assert verify.worst_ratio(Y, W, X) > 1.0


def test_gamma() -> None:
    u = 2.0**-24
    assert numerics.gamma(1) == u / (1 - u)
    assert numerics.gamma(1000) > 1000 * u
    assert np.array_equal(numerics.gamma(np.array([0, 2])), [0.0, 2 * u / (1 - 2 * u)])


@given(x=st.floats(-30, 30))
def test_slopes_cover_the_activations(x: float) -> None:
    """An error in the argument grows by at most the slope that the bound assumes."""
    step = 1e-4
    for name in numerics.ACTIVATIONS:
        a, b = numerics.activate(np.array([x, x + step]), name)
        assert abs(b - a) <= numerics._SLOPE[name] * step * (1 + 1e-6)


@pytest.mark.parametrize("activation", [None, *numerics.ACTIVATIONS])
def test_float32_activations_are_within_the_bound(activation: str | None) -> None:
    y64 = np.concatenate([np.linspace(-20, 20, 4001), np.geomspace(1e-30, 1e30, 100)])[None]
    argument = y64.astype(np.float32)
    got = torch.from_numpy(argument)
    if activation:
        got = getattr(torch.nn.functional, activation)(got)
    want = numerics.activate(argument.astype(np.float64), activation)
    bound = numerics.error_bound(np.array([1]), np.abs(y64), want, activation=activation)
    assert (np.abs(got.double().numpy() - want) <= bound).all()


def test_truncated_sums_may_lose_twice_as_much_a_term() -> None:
    nnz, one = np.array([1000]), np.ones((1, 1))
    rounded = numerics.error_bound(nnz, one, one, Gy=4)
    truncated = numerics.error_bound(nnz, one, one, Gy=4, step=2)
    assert truncated == pytest.approx(rounded * (2 * 1000 + 6) / (1000 + 6), rel=1e-3)
    assert KernelConfig("decode", format="bitmap").step == 2
    assert KernelConfig("decode").step == KernelConfig("gather").step == 1
