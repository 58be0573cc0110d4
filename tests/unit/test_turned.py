"""Family ``turned``: token-major X through gather, as if it were row-major."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.turned import TurnedKernel, row_major
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import Epilogue
from tests.support import problem_for, weight

GPU = Device.virtual_cuda(90)
W = weight("ragged", 96, 160, 0.1, seed=0)
PROBLEM = problem_for(W, 64, x_layout="column", y_layout="column")
CONFIG = FAMILIES["turned"].default_config(PROBLEM, GPU)


def test_the_default_is_gathers_with_the_widest_loads() -> None:
    assert CONFIG.kernel == "turned" and CONFIG.vector == 4
    assert why_not(PROBLEM, CONFIG, GPU) is None


def test_what_it_refuses() -> None:
    row = replace(PROBLEM, x_layout="row")
    assert "row-major already" in str(why_not(row, CONFIG, GPU))
    assert "fewer than 1024 rows (got 96)" in str(why_not(row, CONFIG, GPU))
    assert why_not(replace(row, M=1024), replace(CONFIG, M_blocks=256), GPU) is None
    assert "one column" in str(why_not(replace(PROBLEM, N=1), CONFIG, GPU))
    assert "Gy must be at least 1" in str(why_not(PROBLEM, replace(CONFIG, Gy=0), GPU))


def test_reference_is_the_product() -> None:
    X = np.random.default_rng(0).standard_normal((160, 64)).astype(np.float32)
    plan = plan_spmm(PROBLEM, CONFIG, W.csr, GPU)
    np.testing.assert_allclose(plan.family.reference(plan, X), W.csr.to_dense() @ X, atol=1e-4)


class Turn:
    def bind(self, device: torch.device):  # type: ignore[no-untyped-def]
        return lambda X, Y, bias, residual: Y.copy_(X.mT)


class Product:
    """W @ X + bias into Y of one layout; remembers X."""

    def __init__(self, y_layout: str) -> None:
        self.y_layout, self.seen = y_layout, []

    def bind(self, device: torch.device):  # type: ignore[no-untyped-def]
        def run(X, Y, bias, residual):  # type: ignore[no-untyped-def]
            self.seen.append(X)
            y = W.to_dense() @ X + bias[:, None]
            Y.copy_(y if self.y_layout == "row" else y.mT)

        return run


@pytest.mark.parametrize("turn_x", [None, Turn()])
@pytest.mark.parametrize("turn_y", [None, Turn()])
def test_launches_through_memory_of_the_calls_own(turn_x: Turn | None, turn_y: Turn | None) -> None:
    product = Product("column" if turn_y is None else "row")
    run = TurnedKernel(PROBLEM, turn_x, product, turn_y).bind(torch.device("cpu"))
    tokens, Y, bias = torch.randn(1, 64, 160), torch.empty(1, 64, 96), torch.randn(96)
    for _ in range(2):
        run(tokens.mT.contiguous() if turn_x is None else tokens, Y, bias, None)
        torch.testing.assert_close(Y[0], tokens[0] @ W.to_dense().T + bias)
    assert product.seen[0].is_contiguous() and torch.equal(product.seen[0][0], tokens[0].T)


def test_only_a_tall_y_without_a_residual_is_turned() -> None:
    tall = replace(PROBLEM, M=2048)
    assert row_major(tall).y_layout == "row" and row_major(PROBLEM).y_layout == "column"
    assert row_major(replace(tall, epilogue=Epilogue(residual=True))).y_layout == "column"


def test_tuning_searches_gathers_space() -> None:
    space = FAMILIES["turned"].space(PROBLEM, GPU)
    assert space == FAMILIES["gather"].space(replace(PROBLEM, x_layout="row"), GPU)
    assert KernelConfig.from_dict(CONFIG.to_dict()) == CONFIG
