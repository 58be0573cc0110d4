"""The judge judged: truth against plain loops, and every kind of wrong result is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparse_triton import SparseMatrix, verify
from sparse_triton.call import Call
from sparse_triton.config import KernelConfig
from sparse_triton.executor import problem_of
from tests.support import weight


def loops(W: SparseMatrix, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W @ x and |W| @ |x| over stored entries, one at a time, in float64."""
    y = np.zeros((W.shape[0], x.shape[1]))
    magnitude = np.zeros_like(y)
    with np.errstate(invalid="ignore"):
        for r, k, w in zip(W.csr.rows, W.csr.column_indices, W.csr.values, strict=True):
            y[r] += np.float64(w) * x[k]
            magnitude[r] += abs(np.float64(w)) * np.abs(x[k])
    return y, magnitude


@pytest.mark.parametrize("special", [False, True])
def test_truth_is_the_sum_over_stored_entries(special: bool) -> None:
    W = weight("ragged", 13, 21, 0.3)
    X = torch.randn(21, 9)
    if special:
        X[3, 2], X[5, 4], X[7, 4] = math.nan, math.inf, -math.inf
    y64, magnitude = verify.truth(W, X)
    want = loops(W, X.double().numpy())
    np.testing.assert_allclose(y64, want[0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(magnitude, want[1], rtol=1e-13, atol=1e-13)


def test_non_finite_weights_are_used() -> None:
    W = SparseMatrix.from_dense(torch.tensor([[math.inf, 0.0], [0.0, math.nan], [1.0, 1.0]]))
    y64, _ = verify.truth(W, torch.tensor([[2.0], [3.0]]))
    np.testing.assert_array_equal(y64[:, 0], [math.inf, math.nan, 5.0])


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
def test_token_major_is_the_transpose(activation: str | None) -> None:
    W, X, bias = weight("random", 6, 10, 0.4), torch.randn(2, 3, 10), torch.randn(6)
    residual = torch.randn(2, 3, 6)
    y64, magnitude = verify.truth(W, X, bias, residual, activation, token_major=True)
    flat = verify.truth(W, X.view(6, 10).mT, bias, residual.view(6, 6).mT, activation)
    assert y64.shape == (2, 3, 6)
    np.testing.assert_allclose(y64, flat[0].T.reshape(2, 3, 6), rtol=1e-15)
    np.testing.assert_allclose(magnitude, flat[1].T.reshape(2, 3, 6), rtol=1e-15)


@pytest.fixture
def exact() -> tuple[torch.Tensor, SparseMatrix, torch.Tensor]:
    """A right result with the arguments it is the result of."""
    W, X = weight("random", 16, 40, 0.3), torch.randn(40, 8)
    return torch.from_numpy(verify.truth(W, X)[0]).float(), W, X


def test_the_rounded_truth_passes(exact: tuple[torch.Tensor, SparseMatrix, torch.Tensor]) -> None:
    assert verify.worst_ratio(*exact) <= 1


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e-3])
def test_one_wrong_element_is_seen(
    exact: tuple[torch.Tensor, SparseMatrix, torch.Tensor], wrong: float
) -> None:
    Y, W, X = exact
    Y[5, 3] += wrong
    ratio = verify.worst_ratio(Y, W, X)
    assert ratio > 1 and (math.isfinite(wrong) or ratio == math.inf)


def test_a_dropped_weight_is_seen(
    exact: tuple[torch.Tensor, SparseMatrix, torch.Tensor],
) -> None:
    _, W, X = exact
    values = W.values.clone()
    values[7] = 0
    less = SparseMatrix.from_csr(W.row_offsets, W.column_indices, values, W.shape)
    assert verify.worst_ratio(less.to_dense() @ X, W, X) > 1


def test_a_missing_nan_and_a_wrong_shape_are_seen() -> None:
    W, X = SparseMatrix.from_dense(torch.ones(2, 2)), torch.tensor([[math.nan], [1.0]])
    assert verify.worst_ratio(torch.full((2, 1), math.nan), W, X) == 0
    assert verify.worst_ratio(torch.ones(2, 1), W, X) == math.inf
    assert verify.worst_ratio(torch.ones(2, 2), W, X) == math.inf


def test_overflow_is_excused_only_where_the_truth_overflows() -> None:
    W = SparseMatrix.from_dense(torch.full((1, 2), 200.0, dtype=torch.float16))
    X = torch.tensor([[200.0, 1.0], [200.0, 1.0]], dtype=torch.float16)
    right = torch.tensor([[math.inf, 400.0]], dtype=torch.float16)
    assert verify.worst_ratio(right, W, X) <= 1
    assert verify.worst_ratio(-right, W, X) == math.inf
    right[0, 1] = math.inf
    assert verify.worst_ratio(right, W, X) == math.inf


def test_an_empty_result_is_right() -> None:
    assert verify.worst_ratio(torch.empty(3, 0), weight("one", 3, 4), torch.empty(4, 0)) == 0


@pytest.mark.parametrize(
    ("kernel", "dtype", "w_dtype", "activation", "want"),
    [
        ("dense", torch.float16, torch.float16, "relu", 2),
        ("dense", torch.float16, torch.float16, None, 1),
        ("dense", torch.float16, torch.float32, "relu", 1),
        ("dense", torch.float32, torch.float32, "relu", 1),
        ("cpu", torch.float16, torch.float16, "relu", 1),
    ],
)
def test_roundings(
    kernel: str, dtype: torch.dtype, w_dtype: torch.dtype, activation: str | None, want: int
) -> None:
    W = SparseMatrix.from_dense(torch.eye(4, dtype=w_dtype))
    call = Call(torch.ones(4, 2, dtype=dtype), None, None, activation, False)
    assert verify.roundings(problem_of(W, call), KernelConfig(kernel)) == want
