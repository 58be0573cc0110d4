"""Cache policies of X and Y change no bit: small problems, policies forced."""

from __future__ import annotations

import pytest
import torch

from sparse_triton.config import KernelConfig
from sparse_triton.kernels.streams import Streamed
from sparse_triton.kernels.unrolled import kernel
from sparse_triton.problem import Epilogue
from tests.support import bind, problem_for, weight

pytestmark = pytest.mark.gpu
EPILOGUE = Epilogue(bias=True, residual=True, activation="relu")


@pytest.mark.parametrize("y_layout", ["row", "column"])
@pytest.mark.parametrize("x_dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "config",
    [
        KernelConfig("unrolled", M_blocks=5, N_blocks=9, vector=2, stack=2),
        KernelConfig("unrolled", M_blocks=3, N_blocks=17, Gy=4),
    ],
    ids=str,
)
def test_results_are_the_same(
    config: KernelConfig, x_dtype: str, y_layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    W = weight("ragged", 100, 70, 0.1, seed=2)
    problem = problem_for(W, 1030, batch=2, x_dtype=x_dtype, y_layout=y_layout, epilogue=EPILOGUE)

    def result(first: Streamed) -> torch.Tensor:
        monkeypatch.setattr(kernel, "streamed", lambda *_: first)
        bound = bind(W, problem, config, "cuda")
        Y = bound.result()
        assert bound.ratio(Y) <= 1.0
        return Y

    plain = result("none")
    assert torch.equal(result("x"), plain) and torch.equal(result("y"), plain)
