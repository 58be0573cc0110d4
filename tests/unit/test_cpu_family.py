"""Family ``cpu``: every cut, layout, dtype and epilogue against float64 and the derived bound."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import ConfigError
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.cpu import MAX_GROUPS, ROW_BLOCKS, packed_for
from sparse_triton.kernels.family import Plan
from sparse_triton.numerics import activate, error_bound
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, SpmmProblem

CPU = Device("cpu", "test", 0, cores=2)
FAMILY = FAMILIES["cpu"]
WIDE = 512  # columns that pass every register tile and the threshold for several threads


def weight(pattern: str, M: int, K: int, seed: int = 0) -> SparseMatrix:
    rng = np.random.default_rng([seed, M, K])
    keep = rng.random((M, K)) < {"zero": 0.0, "one": 0.0, "full": 1.1}.get(pattern, 0.3)
    if pattern == "one" and M and K:
        keep[rng.integers(M), rng.integers(K)] = True
    if pattern == "holes":
        keep[rng.random(M) < 0.5] = False
        keep[:, rng.random(K) < 0.5] = False
    w = rng.standard_normal((M, K)).astype(np.float32)
    return SparseMatrix.from_dense(np.where(keep, w, np.float32(0)))


def problem_of(W: SparseMatrix, N: int, **options: object) -> SpmmProblem:
    return SpmmProblem(*W.shape, N, W.nnz, **options)  # type: ignore[arg-type]


def plan_of(W: SparseMatrix, problem: SpmmProblem, config: KernelConfig) -> Plan:
    return plan_spmm(problem, config, W.csr, CPU)


def laid_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    return t if layout == "row" else t.mT.contiguous()


class Case:
    """One plan with drawn operands; ``y()`` is row-major whatever the plan's layout."""

    def __init__(self, plan: Plan, X: torch.Tensor | None = None) -> None:
        p = plan.problem
        draw = torch.Generator().manual_seed(p.M + 31 * p.N)
        dtype = getattr(torch, p.x_dtype)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw).to(dtype)

        self.plan = plan
        self.X = randn(p.batch, p.K, p.N) if X is None else X
        self.bias = randn(p.M) if p.epilogue.bias else None
        self.residual = randn(p.batch, p.M, p.N) if p.epilogue.residual else None
        self.run = FAMILY.build(plan).bind(torch.device("cpu"))

    def y(self) -> torch.Tensor:
        p = self.plan.problem
        shape = (p.batch, p.M, p.N) if p.y_layout == "row" else (p.batch, p.N, p.M)
        Y = torch.full(shape, math.nan, dtype=self.X.dtype)
        residual = None if self.residual is None else laid_out(self.residual, p.y_layout)
        self.run(laid_out(self.X, p.x_layout), Y, self.bias, residual)
        return Y if p.y_layout == "row" else Y.mT

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(y64, magnitude) in float64."""
        w = self.plan.csr.to_dense().astype(np.float64)
        y = w @ self.X.double().numpy()
        magnitude = np.abs(w) @ self.X.double().abs().numpy()
        for t in (None if self.bias is None else self.bias[:, None], self.residual):
            if t is not None:
                y, magnitude = y + t.double().numpy(), magnitude + t.double().abs().numpy()
        return activate(y, self.plan.problem.epilogue.activation), magnitude

    def check(self, y: torch.Tensor) -> None:
        p = self.plan.problem
        y64, magnitude = self.truth()
        bound = error_bound(
            self.plan.csr.row_lengths, magnitude, y64, Gy=self.plan.config.Gy,
            y_dtype=p.x_dtype, activation=p.epilogue.activation,
        )  # fmt: skip
        worse = ~(np.abs(y.double().numpy() - y64) <= bound)
        assert not worse.any(), (
            f"{worse.sum()} of {worse.size} entries, first {np.argwhere(worse)[0]}"
        )


shapes = st.tuples(
    st.integers(1, 40),
    st.integers(1, 70),
    st.sampled_from([0, 1, 2, 3, 7, 8, 16, 17, 31, 48, 49, 64, 90, 100, 128, 129, 200, WIDE]),
)
patterns = st.sampled_from(["random", "holes", "one", "zero", "full"])
configs = st.builds(
    KernelConfig,
    kernel=st.just("cpu"),
    M_blocks=st.integers(1, 45),
    N_blocks=st.integers(1, 20),
    Gy=st.integers(1, 9),
    row_blocks=st.sampled_from(ROW_BLOCKS),
)
options = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([1, 1, 3]),
        "x_dtype": st.sampled_from(["float32", "float32", "float16", "bfloat16"]),
        "x_layout": st.sampled_from(["row", "column"]),
        "y_layout": st.sampled_from(["row", "column"]),
        "epilogue": st.builds(
            Epilogue, st.booleans(), st.booleans(), st.sampled_from([None, "relu", "gelu", "silu"])
        ),
    }
)
PLAIN = {"batch": 1}


@settings(max_examples=80)
@given(shapes, patterns, configs, options)
@example((1, 1, 1), "full", KernelConfig("cpu"), PLAIN)
@example((40, 70, WIDE), "random", KernelConfig("cpu", 3, 1, 4, row_blocks="even_nnz"), PLAIN)
@example((33, 65, 49), "holes", KernelConfig("cpu", 45, 20, 9, row_blocks="sorted"), PLAIN)
@example(
    (7, 5, 100), "zero", KernelConfig("cpu", 2, 2, 3), {"epilogue": Epilogue(True, True, "gelu")}
)
def test_within_the_derived_bound_and_repeatable(
    shape: tuple[int, int, int], pattern: str, config: KernelConfig, options: dict[str, object]
) -> None:
    M, K, N = shape
    W = weight(pattern, M, K)
    case = Case(plan_of(W, problem_of(W, N, **options), config))
    y = case.y()
    case.check(y)
    assert y.equal(case.y())


@pytest.mark.parametrize("N", [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 130])
@pytest.mark.parametrize("Gy", [1, 3])
def test_every_register_tile(N: int, Gy: int) -> None:
    W = weight("random", 19, 83)
    case = Case(plan_of(W, problem_of(W, N), KernelConfig("cpu", Gy=Gy)))
    case.check(case.y())


@given(shapes, patterns, configs)
def test_reference_is_what_the_kernel_computes(
    shape: tuple[int, int, int], pattern: str, config: KernelConfig
) -> None:
    M, K, N = shape
    W = weight(pattern, M, K)
    case = Case(plan_of(W, problem_of(W, N), config))
    case.check(torch.from_numpy(FAMILY.reference(case.plan, case.X[0].numpy()))[None])


@given(patterns, configs, st.integers(1, 30), st.integers(1, 50))
def test_packing_holds_every_entry_once_in_even_groups(
    pattern: str, config: KernelConfig, M: int, K: int
) -> None:
    W = weight(pattern, M, K)
    packed = packed_for(plan_of(W, problem_of(W, 1), config))
    blocks, block_m = packed.rows.shape
    rebuilt = np.zeros((M, K), dtype=np.float32)
    at = np.arange(len(packed.starts) - 1)
    rows = packed.rows[at // (block_m * config.Gy), at % block_m]
    lengths = np.diff(packed.starts)
    assert (lengths[rows < 0] == 0).all()
    rebuilt[np.repeat(rows, lengths), packed.columns] += packed.values
    assert np.array_equal(rebuilt, W.csr.to_dense())
    groups = lengths.reshape(blocks, config.Gy, block_m).sum(axis=2)
    assert (np.ptp(groups, axis=1) <= 2 * block_m).all()  # cuts move by less than one column


@pytest.mark.parametrize("N", [1, 5, 49, 128, 300])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_and_inf_reach_only_the_rows_that_store_a_weight(N: int, poison: float) -> None:
    W = weight("random", 30, 40)
    case = Case(plan_of(W, problem_of(W, N), KernelConfig("cpu", 2, 2, 3)))
    k, n = 17, N // 2
    case.X[0, k, n] = poison
    y = case.y()[0]
    stored = W.to_dense()[:, k] != 0
    assert stored.any() and not stored.all()
    assert y[stored, n].isfinite().logical_not().all()
    assert y[~stored, n].isfinite().all()
    assert y[:, torch.arange(N) != n].isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activations_on_the_whole_line(activation: str) -> None:
    W = SparseMatrix.from_dense(torch.ones(1, 1))
    ends = [0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0, 88.5, -88.5, 1e30, -1e30]
    line = torch.cat([torch.tensor(ends), torch.linspace(-12, 12, 4001)])
    problem = problem_of(W, len(line), epilogue=Epilogue(activation=activation))
    case = Case(plan_of(W, problem, KernelConfig("cpu")), line[None, None])
    case.check(case.y())
    specials = torch.tensor([math.nan, math.inf, -math.inf])[None, None]
    got = Case(
        plan_of(W, problem_of(W, 3, epilogue=problem.epilogue), KernelConfig("cpu")), specials
    )
    expected = activate(specials.double().numpy(), activation)
    np.testing.assert_array_equal(got.y().numpy(), expected)


def test_empty_rows_get_bias_and_activation() -> None:
    W = weight("zero", 6, 9)
    problem = problem_of(W, 20, epilogue=Epilogue(bias=True, activation="relu"))
    case = Case(plan_of(W, problem, KernelConfig("cpu", 2, 2, 2)))
    assert case.bias is not None
    assert case.y()[0].equal(case.bias.relu()[:, None].expand(6, 20))


@pytest.mark.parametrize("shape", [(0, 5, 4), (5, 0, 4), (0, 0, 0)])
def test_nothing_to_multiply(shape: tuple[int, int, int]) -> None:
    M, K, N = shape
    W = SparseMatrix.from_dense(torch.zeros(M, K))
    problem = problem_of(W, N)
    case = Case(plan_of(W, problem, FAMILY.default_config(problem, CPU)))
    assert case.y().equal(torch.zeros(1, M, N))


@given(shapes, patterns, options, st.sampled_from([1, 2, 64]))
def test_default_is_legal_and_right(
    shape: tuple[int, int, int], pattern: str, options: dict[str, object], cores: int
) -> None:
    M, K, N = shape
    W = weight(pattern, M, K)
    problem = problem_of(W, N, **options)
    device = Device("cpu", "test", 0, cores=cores)
    config = FAMILY.default_config(problem, device)
    assert FAMILY.why_not(problem, config, device) is None
    case = Case(plan_of(W, problem, config))
    case.check(case.y())


def test_default_blocks_k_where_a_row_has_entries_enough() -> None:
    deep = SpmmProblem(512, 2048, 3136, nnz=104_858)
    assert FAMILY.default_config(deep, CPU).Gy == 8
    thin = SpmmProblem(512, 2048, 3136, nnz=5_000)
    assert FAMILY.default_config(thin, CPU).Gy == 1


def test_every_point_of_the_space_is_legal() -> None:
    problem = SpmmProblem(33, 65, 200, nnz=100)
    space = FAMILY.space(problem, CPU)
    for name, values in space.items():
        for value in values:
            config = KernelConfig("cpu", **{name: value})
            assert FAMILY.why_not(problem, config, CPU) is None


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (KernelConfig("cpu", Gy=MAX_GROUPS + 1), "Gy must be at most"),
        (KernelConfig("cpu", M_blocks=0), "M_blocks must be at least 1"),
    ],
)
def test_illegal_configurations_say_why(config: KernelConfig, match: str) -> None:
    W = weight("random", 5, 5)
    with pytest.raises(ConfigError, match=match):
        plan_of(W, problem_of(W, 3), config)


def in_threads(count: int, call: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_threads_of_one_and_two_cores_give_the_same_bits() -> None:
    W = weight("random", 64, 96)
    problem, config = problem_of(W, WIDE), KernelConfig("cpu", 2, 4, 2)
    plans = [plan_spmm(problem, config, W.csr, Device("cpu", "test", 0, cores=c)) for c in (1, 2)]
    alone, together = (Case(plan) for plan in plans)
    expected = alone.y()
    seen: list[bool] = []
    in_threads(4, lambda: seen.extend(together.y().equal(expected) for _ in range(20)))
    assert len(seen) == 80 and all(seen)


def test_importing_the_package_does_not_import_numba() -> None:
    code = "import sys, sparse_triton; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_torch_keeps_its_number_of_threads() -> None:
    code = (
        "import torch; torch.set_num_threads(1);"
        "from sparse_triton.kernels.cpu import load_kernel; load_kernel();"
        "raise SystemExit(torch.get_num_threads() != 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_by_itself() -> None:
    code = """
import os, torch, sparse_triton as st
from sparse_triton.call import Call
from sparse_triton.executor import prepare
from sparse_triton.config import KernelConfig
W, X = torch.randn(64, 64), torch.randn(64, 512)
call = Call(X, None, None, None, False)
run = prepare(st.SparseMatrix.from_dense(W.relu()), call, KernelConfig("cpu", 4, 4))
y = run(call, None)
child = os.fork()
if child == 0:
    os._exit(0 if run(call, None).equal(y) else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
