"""Family decode: every format, drawn shapes and layouts, full and empty rows, exact densities."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import sparse_triton as st
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.config import Format, KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import Epilogue, SpmmProblem
from sparse_triton.verify import config_of
from tests.gpu.cases import EPILOGUES, drawn_weight
from tests.support import PATTERNS, bind, draw_config, problem_for

pytestmark = pytest.mark.gpu
HALVES = ("float16", "bfloat16")


def drawn(seed: int) -> tuple[SparseMatrix, SpmmProblem, KernelConfig]:
    """A legal case; each value of each field of the space is forced in turn."""
    rng = np.random.default_rng([seed, 7])

    def pick(values):  # type: ignore[no-untyped-def]
        return values[rng.integers(len(values))]

    pattern, density = pick(PATTERNS), pick((0.01, 0.1, 0.44, 0.5, 0.9))
    shape = SpmmProblem(pick((1, 7, 33, 64, 515)), pick((1, 5, 64, 333, 1024)), 1, 1,
                        w_dtype=pick(HALVES))  # fmt: skip
    W = drawn_weight(pattern, density, seed, shape)
    problem = problem_for(
        W, pick((1, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32)), batch=pick((1, 1, 3)),
        x_dtype=pick(HALVES), x_layout=pick(("row", "column")),
        y_layout=pick(("row", "column")), epilogue=pick(EPILOGUES),
    )  # fmt: skip
    device = Device.of(torch.device("cuda"))
    wanted = [
        (n, v) for n, vs in FAMILIES["decode"].space(problem, device).items() for v in vs
        if n not in ("M_blocks", "N_blocks")
    ]  # fmt: skip
    for turn in range(len(wanted)):
        forced = dict([wanted[(seed + turn) % len(wanted)]])
        config = draw_config(rng, problem, device, "decode", **forced)
        if config is not None:
            return W, problem, config
    raise AssertionError(f"no legal configuration for {problem}")


@pytest.mark.parametrize("seed", range(80))
def test_result_is_within_the_bound_and_repeats(seed: int) -> None:
    W, problem, config = drawn(seed)
    bound = bind(W, problem, config, "cuda", seed=seed)
    first, second = bound.result(), bound.result()
    assert bound.ratio(first) <= 1.0, (problem, config)
    assert torch.equal(first.view(torch.int16), second.view(torch.int16))


@pytest.mark.parametrize("density", [0.0005, 0.1, 0.44, 0.5, 1.0])
@pytest.mark.parametrize("N", [1, 8])
def test_defaults_at_every_density(N: int, density: float) -> None:
    """Exactly 50 % and 56 % zeros are among them: where other formats change."""
    device = Device.of(torch.device("cuda"))
    M, K = 1000, 4099
    keep = torch.zeros(M * K, dtype=torch.bool)
    keep[torch.randperm(M * K)[: round(density * M * K)]] = True
    w = torch.randn(M, K).half()
    w[w == 0] = 1
    W = SparseMatrix.from_dense(torch.where(keep.view(M, K), w, 0))
    problem = problem_for(W, N, x_dtype="float16", x_layout="column", y_layout="column")
    config = FAMILIES["decode"].default_config(problem, device)
    assert why_not(problem, config, device) is None
    bound = bind(W, problem, config, "cuda")
    assert bound.ratio(bound.result()) <= 1.0


@pytest.mark.parametrize("format", ["gaps4", "gaps8", "columns16", "bitmap"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("N", [1, 3, 8])
def test_nan_and_inf_spread_through_stored_weights_only(N: int, bad: float, format: Format) -> None:
    """Every column of X that no row stores is bad: bridging entries must not multiply."""
    W = drawn_weight("random", 0.02, 3, SpmmProblem(40, 4096, 1, 1, w_dtype="float16"))
    problem = problem_for(W, N, x_dtype="float16", epilogue=Epilogue())
    config = KernelConfig(
        "decode", ceil_div(40, 16), Gy=16, row_blocks="sorted", prefetch=2, format=format,
    )  # fmt: skip
    bound = bind(W, problem, config, "cuda")
    used = (W.to_dense() != 0).any(dim=0)
    bound.X[0, ~used.cuda()] = bad
    Y = bound.result()
    assert Y.isfinite().all()
    assert bound.ratio(Y) <= 1.0
    k = int(used.nonzero()[0])
    bound.X[0, k] = bad
    touched = (W.to_dense()[:, k] != 0).cuda()
    assert torch.equal(~bound.result()[0].isfinite().all(dim=-1), touched)


@pytest.mark.parametrize("tokens", [1, 3, 8, 16])
def test_layers_after_each_other_in_a_graph(tokens: int) -> None:
    """Each layer starts before the one before it has ended, and waits for it only to read X."""
    widths = (2048, 1536, 2048, 1024)
    layers = []
    for i, (K, M) in enumerate(itertools.pairwise(widths)):
        W = drawn_weight("random", 0.3, i, SpmmProblem(M, K, 1, 1, w_dtype="float16")).to("cuda")
        layers.append(W)
    x = torch.randn(tokens, widths[0], device="cuda", dtype=torch.float16) / 100

    def forward() -> torch.Tensor:
        y = x
        for W in layers:
            y = st.linear(y, W, activation="relu")
        return y

    taken = config_of(layers[0], Call(x, None, None, "relu", True))
    assert taken.kernel == "decode"
    want = forward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = forward()
    for _ in range(20):
        got.fill_(float("nan"))
        graph.replay()
        assert torch.equal(got.view(torch.int16), want.view(torch.int16))


@pytest.mark.parametrize("N", [1, 2])
def test_columns_past_16_bits(N: int) -> None:
    """Pieces begin at columns that 16 bits do not hold."""
    W = drawn_weight("random", 0.01, 5, SpmmProblem(64, 50_001, 1, 1, w_dtype="float16"))
    problem = problem_for(W, N, x_dtype="float16", x_layout="column", y_layout="column")
    device = Device.of(torch.device("cuda"))
    bound = bind(W, problem, FAMILIES["decode"].default_config(problem, device), "cuda")
    assert bound.ratio(bound.result()) <= 1.0


@pytest.mark.parametrize("format", ["gaps4", "bitmap"])
def test_sums_of_one_sign_stay_within_the_bound(format: Format) -> None:
    """Every error points the same way: what truncation loses adds up."""
    W = SparseMatrix.from_dense(torch.rand(64, 4096).half() + 0.5)
    problem = problem_for(W, 8, x_dtype="float16", x_layout="column", y_layout="column")
    config = KernelConfig("decode", 4, Gy=16, row_blocks="sorted", prefetch=2, format=format)
    bound = bind(W, problem, config, "cuda")
    bound.X.copy_(torch.rand(bound.X.shape) / 64 + 0.001)
    assert bound.ratio(bound.result()) <= 1.0
