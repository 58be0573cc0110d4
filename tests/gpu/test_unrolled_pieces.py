"""Pieces of a program overlap one another and the kernels around them, and change no bit."""

from __future__ import annotations

import pytest
import torch

from sparse_triton.build import parts_of
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.unrolled import pieces
from sparse_triton.plan import plan_spmm
from tests.support import bind, problem_for, weight

pytestmark = pytest.mark.gpu
PRODUCTS = 9  # of a chain, each of the result before


@pytest.mark.parametrize("N", [2048, 40960])  # programs that fit side by side, or do not
@pytest.mark.parametrize(
    "config",
    [
        KernelConfig("unrolled", M_blocks=8, fastest="columns"),
        KernelConfig("unrolled", M_blocks=8, Gy=2, stack=2, row_blocks="even_nnz"),
        KernelConfig("unrolled", M_blocks=4, starts=2, prefetch=16, fastest="columns"),
        KernelConfig("unrolled", M_blocks=8, K_blocks=2, starts=2, fastest="columns"),
    ],
    ids=str,
)
def test_a_chain_of_products(config: KernelConfig, N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """X and Y take turns, so that a piece that began too early, or ended late, would show."""
    W = weight("ragged", 256, 256, 0.05, seed=3)
    lanes = 256 if config.starts > 1 else 64
    config = KernelConfig(**{**config.to_dict(), "N_blocks": N // lanes})
    problem = problem_for(W, N)
    plan = plan_spmm(problem, config, W.csr, Device.of(torch.device("cuda")))
    whole = plan.family.build(plan)
    monkeypatch.setattr(pieces, "LONGEST_PIECE", -(-W.nnz // 4))
    cut = plan.family.build(plan)
    assert len(parts_of(whole)) == 1 and len(parts_of(cut)) == 4
    X = torch.randn(1, 256, N, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    expected = chain(whole, X.clone())
    for _ in range(3):
        assert torch.equal(chain(cut, X.clone()), expected)
    bound = bind(W, problem, config, "cuda")
    assert bound.ratio(bound.result()) <= 1.0


def chain(kernel: Kernel, X: torch.Tensor) -> torch.Tensor:
    """W (W (... X)) in one graph, in two buffers that are overwritten again and again."""
    run, Y = kernel.bind(X.device), torch.empty_like(X)
    run(X, Y, None, None)
    first, graph = X.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a, b = X, Y
        for _ in range(PRODUCTS):
            run(a, b, None, None)
            a, b = b, a
        a *= 0.5
        run(a, b, None, None)
    X.copy_(first)
    graph.replay()
    torch.cuda.synchronize()
    return b.clone()
