"""Family dense: every epilogue within the bound, bias and residual added by the product itself."""

from __future__ import annotations

import threading
from unittest.mock import patch

import pytest
import torch

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.kernels.dense_conv import _searches as searches
from sparse_triton.kernels.dense_conv import without_search
from sparse_triton.problem import Epilogue
from tests.support import bind, dense_weight, problem_for

DENSE = KernelConfig("dense")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("N", [1, 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_epilogues(
    dtype: str, layout: str, N: int, bias: bool, residual: bool, activation: str | None
) -> None:
    W = SparseMatrix.from_dense(dense_weight("random", 33, 64, 0.5).to(getattr(torch, dtype)))
    epilogue = Epilogue(bias, residual, activation)
    problem = problem_for(W, N, x_dtype=dtype, x_layout=layout, y_layout=layout, epilogue=epilogue)
    bound = bind(W, problem, DENSE, "cpu")
    assert bound.ratio(bound.result()) <= 1.0


def test_bias_alone_is_one_call_where_the_library_has_one() -> None:
    W = SparseMatrix.from_dense(dense_weight("random", 33, 64, 0.5).bfloat16())
    problem = problem_for(
        W, 5, x_dtype="bfloat16", x_layout="column", y_layout="column", epilogue=Epilogue(bias=True)
    )
    bound = bind(W, problem, DENSE, "cpu")
    with patch("torch.Tensor.copy_") as copied:
        bound.result()
    assert not copied.called


def test_without_search_is_for_this_thread_alone() -> None:
    """Two threads leave in the order they came: neither keeps the other's state."""
    entered, left = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        seen.append(searches.get())
        with without_search():
            entered.set()
            assert left.wait(10)
        seen.append(searches.get())

    thread = threading.Thread(target=other)
    with without_search():
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert seen == [True, True] and searches.get()
