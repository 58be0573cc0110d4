"""``linear`` on X and into Y of either memory format: the same values, other strides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix, linear, verify
from sparse_triton.call import Call, is_feature_major
from sparse_triton.executor import problem_of
from sparse_triton.nn import SparseLinear
from tests.strategies import ACTIVATIONS, DTYPES, matrices
from tests.support import dense_weight, randn, weight

FORMATS = ("contiguous", "feature-major", "strided")


def formatted(t: torch.Tensor, how: str) -> torch.Tensor:
    """The same values in another memory format."""
    if how == "feature-major":
        return t.movedim(-1, 0).contiguous().movedim(0, -1)
    return t.repeat_interleave(2, -1)[..., ::2] if how == "strided" else t


@given(
    W=matrices(most=20),
    shape=st.sampled_from([(), (1,), (7,), (2, 3), (1, 5), (5, 1), (0,), (2, 0, 3), (2, 3, 4)]),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    formats=st.tuples(st.sampled_from(FORMATS), st.sampled_from((None, *FORMATS))),
    feature_major=st.booleans(),
    has_bias=st.booleans(),
)
def test_values_and_strides(
    W: SparseMatrix, shape: tuple[int, ...], dtype: torch.dtype, activation: str | None,
    formats: tuple[str, str | None], feature_major: bool, has_bias: bool,
) -> None:  # fmt: skip
    M, K = W.shape
    X = formatted(randn((*shape, K), dtype, "cpu", 0), formats[0])
    bias = randn((M,), dtype, "cpu", 1) if has_bias else None
    residual = None
    if formats[1] is not None:
        residual = formatted(randn((*shape, M), dtype, "cpu", 2), formats[1])
    layer = SparseLinear(W, bias, activation=activation, feature_major=feature_major)
    Y = layer(X, residual)
    call = Call(X, bias, residual, activation, True, feature_major=feature_major)
    assert verify.call_ratio(Y, W, call, verify.config_of(W, call)) <= 1.0
    assert Y.shape == (*shape, M)
    assert (Y.movedim(-1, 0) if feature_major else Y).is_contiguous()


def test_the_problem_has_the_layouts() -> None:
    W = weight("random", 8, 6, 0.3, seed=0)
    token_major = torch.zeros(4, 6)
    other = formatted(token_major, "feature-major")
    layouts = {
        (x is other, y): (problem.x_layout, problem.y_layout)
        for x in (token_major, other)
        for y in (False, True)
        for problem in [problem_of(W, Call(x, None, None, None, True, feature_major=y))]
    }
    assert layouts == {
        (False, False): ("column", "column"), (False, True): ("column", "row"),
        (True, False): ("row", "column"), (True, True): ("row", "row"),
    }  # fmt: skip
    one = problem_of(W, Call(torch.zeros(1, 6), None, None, None, True, feature_major=True))
    assert (one.x_layout, one.y_layout) == ("column", "column"), "one token has one format"
    assert is_feature_major(other) and not is_feature_major(token_major)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_gradients(activation: str | None) -> None:
    W = weight("random", 5, 6, 0.4, seed=0)
    layer = SparseLinear(W, torch.randn(5), activation=activation, feature_major=True)
    X = formatted(torch.randn(2, 3, 6), "feature-major").requires_grad_()
    R = torch.randn(2, 3, 5, requires_grad=True)
    wide = X.detach().double().requires_grad_(), R.detach().double().requires_grad_()
    truth = torch.nn.functional.linear(wide[0], W.to_dense().double(), layer.bias.double())
    truth = truth + wide[1]
    if activation is not None:
        truth = getattr(torch.nn.functional, activation)(truth)
    layer(X, R).square().sum().backward()
    truth.square().sum().backward()
    for got, want in zip((X.grad, R.grad), wide, strict=True):
        torch.testing.assert_close(got.double(), want.grad, rtol=1e-5, atol=1e-5)


def test_traced() -> None:
    W, w = weight("random", 6, 8, 0.3, seed=0), dense_weight("random", 6, 8, 0.3, 0)
    X = formatted(torch.randn(2, 5, 8), "feature-major")
    parts = (W.row_offsets, W.column_indices, W.values)
    options = (X, None, None, "relu", True, False)
    ops, last = torch.ops.sparse_triton, ("float32", True)
    torch.library.opcheck(ops.spmm.default, (*parts, *options, 6, 8, W.weight_id, *last))
    torch.library.opcheck(ops.spmm_dense.default, (w, *options, *last))

    @torch.compile(fullgraph=True)
    def two(X: torch.Tensor) -> torch.Tensor:
        return linear(torch.relu(linear(X, w, feature_major=True)), w.T)

    torch.testing.assert_close(two(X), linear(torch.relu(linear(X, W)), w.T))
