"""Every family, drawn configurations: NaN-filled outputs, guard bands, float64 truth, same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.gpu.cases import Case, cases
from tests.support import bind, draw_config, problem_for, weight

pytestmark = pytest.mark.gpu
COUNTS = {"unrolled": 110, "gather": 70, "turned": 30, "tf32x3": 32, "pairs": 16, "dense": 16}
EVERY = [case for family, count in COUNTS.items() for case in cases(family, count)]


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_result_is_within_the_bound_and_repeats(case: Case) -> None:
    device = Device.of(torch.device("cuda"))
    reason = why_not(case.problem, case.config, device)
    if reason is not None:
        pytest.skip(f"not legal on {device.name}: {reason}")
    bound = bind(case.weight(), case.problem, case.config, "cuda", seed=case.seed)
    first, second = bound.result(), bound.result()
    assert bound.ratio(first) <= 1.0
    bits = torch.int32 if first.element_size() == 4 else torch.int16
    assert torch.equal(first.view(bits), second.view(bits)), "two runs differ in bits"


@pytest.mark.parametrize("N", [17, 100, 256])
def test_a_tall_token_major_result_is_turned_back(N: int) -> None:
    W = weight("ragged", 1030, 64, 0.1, seed=1)
    epilogue = Epilogue(bias=True, activation="relu")
    problem = problem_for(W, N, x_layout="column", y_layout="column", epilogue=epilogue)
    config = FAMILIES["turned"].default_config(problem, Device.of(torch.device("cuda")))
    bound = bind(W, problem, config, "cuda")
    assert bound.ratio(bound.result()) <= 1.0


SPREADING = [
    ("unrolled", {"Gy": 1, "vector": 1}),
    ("unrolled", {"Gy": 4, "vector": 2}),
    ("gather", {"Gy": 4}),
    ("gather", {"Gy": 1}),
]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("family", "forced"), SPREADING)
def test_nan_and_inf_spread_through_stored_weights_only(
    family: str, forced: dict[str, int], bad: float
) -> None:
    W = weight("ragged", 32, 64, 0.1, seed=3)
    problem = problem_for(W, 128)
    config = draw_config(
        np.random.default_rng(0), problem, Device.virtual_cuda(90), family, **forced
    )
    assert config is not None
    bound = bind(W, problem, config, "cuda")
    bound.X[0, 5, 17] = bad
    Y = bound.result()
    assert bound.ratio(Y) <= 1.0
    touched = (W.to_dense()[:, 5] != 0).cuda()
    assert torch.equal(~Y[0, :, 17].isfinite(), touched)
    Y[0, :, 17] = 0
    assert Y.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_zeros_multiply_on_tensor_cores(bad: float) -> None:
    """Family tf32x3: NaN or Inf in a column of X leaves NaN in that column of Y, and only there."""
    W = weight("ragged", 32, 64, 0.1, seed=3)
    problem = problem_for(W, 128)
    device = Device.of(torch.device("cuda"))
    bound = bind(W, problem, FAMILIES["tf32x3"].default_config(problem, device), "cuda")
    bound.X[0, 5, 17] = bad
    Y = bound.result()
    assert Y[0, :, 17].isnan().all()
    Y[0, :, 17] = 0
    assert Y.isfinite().all()


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("layouts", ["row-row", "row-column", "column-row"])
def test_tall_dense_tiles(layouts: str, activation: str | None) -> None:
    """Family tf32x3: 128 x 64 in 4 warps, tiles that M and N do not fill."""
    x_layout, y_layout = layouts.split("-")
    W = weight("ragged", 300, 528, 0.3, seed=6)
    epilogue = Epilogue(bias=activation is not None, activation=activation)
    problem = problem_for(
        W, 1520, batch=2, x_layout=x_layout, y_layout=y_layout, epilogue=epilogue
    )  # fmt: skip
    config = KernelConfig("tf32x3", M_blocks=3, N_blocks=24, prefetch=3)
    reason = why_not(problem, config, Device.of(torch.device("cuda")))
    if reason is not None:
        pytest.skip(reason)
    bound = bind(W, problem, config, "cuda")
    first, second = bound.result(), bound.result()
    assert bound.ratio(first) <= 1.0
    assert torch.equal(first.view(torch.int32), second.view(torch.int32))


@pytest.mark.parametrize(
    "config",
    [
        KernelConfig("unrolled", M_blocks=2, N_blocks=256, Gy=2, vector=2),
        KernelConfig("unrolled", M_blocks=2, N_blocks=64, starts=4, prefetch=16),
        KernelConfig("unrolled", M_blocks=2, N_blocks=64, starts=4, fastest="columns"),
        KernelConfig("unrolled", M_blocks=2, N_blocks=128, starts=2, fastest="columns"),
    ],
    ids=str,
)
def test_loads_reach_past_the_offset_field(config: KernelConfig) -> None:
    """N wide enough that rows of X lie further apart than a load's 24-bit offset reaches."""
    W = weight("random", 16, 128, 0.05, seed=4)
    problem = problem_for(W, 32768)
    bound = bind(W, problem, config, "cuda")
    assert bound.ratio(bound.result()) <= 1.0


def test_real_layer() -> None:
    """A layer of ResNet size, through the family's own defaults."""
    W = weight("random", 256, 512, 0.1, seed=5)
    for family in ("unrolled", "gather", "tf32x3"):
        problem = problem_for(W, 784)
        device = Device.of(torch.device("cuda"))
        bound = bind(W, problem, FAMILIES[family].default_config(problem, device), "cuda")
        assert bound.ratio(bound.result()) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("y_layout", ["row", "column"])
@pytest.mark.parametrize("family", ["unrolled", "gather"])
def test_offsets_past_32_bits(family: str, y_layout: str) -> None:
    """X and Y of more than 2**31 elements: the last columns of the last rows are right."""
    N, M, K = 2**20, 2100, 2100
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * 2**30:
        pytest.skip(f"needs 16 GiB of GPU memory, {free / 2**30:.0f} are free")
    w = torch.zeros(M, K)
    w[0, 0], w[M - 1, K - 1], w[M - 1, 0], w[M // 2, K - 1] = 1.0, 2.0, -3.0, 0.5
    W = SparseMatrix.from_dense(w)
    problem: SpmmProblem = problem_for(W, N, x_dtype="float16", y_layout=y_layout)
    config = {
        "unrolled": KernelConfig("unrolled", M_blocks=64, N_blocks=N // 128),
        "gather": KernelConfig("gather", 525, N // 32, Gy=1, row_blocks="sorted"),
    }[family]
    device = Device.of(torch.device("cuda"))
    plan = plan_spmm(problem, config, W.csr, device)
    X = torch.zeros(1, K, N, dtype=torch.float16, device="cuda")
    ends = torch.cat([torch.arange(256), torch.arange(N - 256, N)]).cuda()
    X[0][:, ends] = torch.randn(K, 512, device="cuda").half()
    shape = (1, M, N) if y_layout == "row" else (1, N, M)
    Y = torch.full(shape, float("nan"), dtype=torch.float16, device="cuda")
    plan.family.build(plan).bind(torch.device("cuda", 0))(X, Y, None, None)
    got = Y[0][:, ends] if y_layout == "row" else Y[0][ends].mT
    want = torch.zeros(M, 512, device="cuda", dtype=torch.float16)
    x = X[0][:, ends].float()
    want[0], want[M // 2] = x[0].half(), (0.5 * x[K - 1]).half()
    want[M - 1] = (-3.0 * x[0] + 2.0 * x[K - 1]).half()
    assert torch.allclose(got, want, rtol=2**-10, atol=1e-6)
    assert not Y.isnan().any()
