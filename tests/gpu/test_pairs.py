"""Family pairs: tiles that nothing fills, columns without partners, NaN and Inf."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.pairs.estimate import WAYS, config_of
from sparse_triton.kernels.pairs.limits import Tile
from sparse_triton.plan import why_not
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.support import bind, problem_for, weight

pytestmark = pytest.mark.gpu
SHAPES = (  # M, K, N, batch
    ((300, 520, 49, 8), Epilogue(bias=True, residual=True, activation="gelu"), "column"),
    ((70, 33, 196, 3), Epilogue(bias=True, activation="relu"), "row"),
    ((256, 777, 4099, 1), Epilogue(residual=True), "row"),
)
TILES = [*(way.tile for way in WAYS), Tile(1, 40), Tile(2, 72), Tile(1, 112)]


def config_for(problem: SpmmProblem, tile: Tile) -> KernelConfig:
    config = config_of(problem, tile)
    reason = why_not(problem, config, Device.of(torch.device("cuda")))
    if reason is not None:
        pytest.skip(reason)
    return config


@pytest.mark.parametrize(("shape", "epilogue", "y_layout"), SHAPES)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles(
    tile: Tile, shape: tuple[int, int, int, int], epilogue: Epilogue, y_layout: Any
) -> None:
    M, K, N, batch = shape
    W = weight("ragged", M, K, 0.1, seed=3)
    problem = problem_for(W, N, batch=batch, epilogue=epilogue, y_layout=y_layout)
    bound = bind(W, problem, config_for(problem, tile), "cuda")
    first, second = bound.result(), bound.result()
    assert bound.ratio(first) <= 1.0
    assert torch.equal(first.view(torch.int32), second.view(torch.int32))


@pytest.mark.parametrize("tile", [way.tile for way in WAYS], ids=str)
def test_fifty_calls_give_the_same_bits(tile: Tile) -> None:
    """Registers that products in flight read are left alone whatever the timing."""
    W = weight("random", 300, 528, 0.1, seed=6)
    problem = problem_for(W, 1520)
    bound = bind(W, problem, config_for(problem, tile), "cuda")
    first = bound.result()
    assert bound.ratio(first) <= 1.0
    for _ in range(50):
        assert torch.equal(first.view(torch.int32), bound.result().view(torch.int32))


def test_every_element_arrives_where_it_belongs() -> None:
    """Each row of W picks one row of X, whose elements say where they come from."""
    M, K, N = 256, 64, 256
    rows = torch.arange(M)
    picked = (7 * rows + rows // 64) % K
    w = torch.zeros(M, K)
    w[rows, picked] = 1.0
    W = SparseMatrix.from_dense(w)
    problem = problem_for(W, N)
    bound = bind(W, problem, config_for(problem, Tile(1, 64)), "cuda")
    bound.X[0] = torch.arange(K * N, device="cuda").view(K, N)
    assert torch.equal(bound.result()[0], bound.X[0, picked.cuda()])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_zeros_may_multiply(bad: float) -> None:
    """NaN or Inf in a column of X: NaN in that column of Y wherever W has an entry; only there."""
    W = weight("ragged", 128, 64, 0.1, seed=3)
    problem = problem_for(W, 128)
    device = Device.of(torch.device("cuda"))
    config = FAMILIES["pairs"].default_config(problem, device)
    if why_not(problem, config, device) is not None:
        pytest.skip("needs sm_90")
    bound = bind(W, problem, config, "cuda")
    bound.X[0, 5, 17] = bad
    Y = bound.result()
    touched = (W.to_dense()[:, 5] != 0).cuda()
    assert Y[0, touched, 17].isnan().all()
    Y[0, :, 17] = 0
    assert Y.isfinite().all()
