"""``accumulate="float16"``: short sums in float16, their own bound, and who may have them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparse_triton
from autotune.lab import Lab
from sparse_triton import SparseMatrix, linear, numerics, spmm, verify
from sparse_triton.call import Call
from sparse_triton.choose import distance
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError, DtypeError, InputError
from sparse_triton.executor import problem_of
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.columns import float16_pair
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.ops import Flush, Fma, HalfFma, Load, Op, Widen
from sparse_triton.kernels.unrolled.schedule import Order, schedule_body, unrolled_program
from sparse_triton.kernels.unrolled.schedule import verify as verify_body
from sparse_triton.partition import block_entries, group_entries, partition_rows
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import SpmmProblem
from sparse_triton.records import Key
from tests.strategies import legal_configs, matrices
from tests.support import problem_for, weight

DEVICE = Device.virtual_cuda(90)
ORDER = Order(4, 64, widen=True, half=True)


def planned(W: SparseMatrix, N: int, **fields: object) -> Plan:
    problem = problem_for(W, N, x_dtype="float16", accumulate="float16")
    return plan_spmm(problem, KernelConfig("unrolled", **fields), W.csr, DEVICE)  # type: ignore[arg-type]


def reference_ratio(plan: Plan, W: SparseMatrix, X: torch.Tensor) -> float:
    Y = torch.from_numpy(FAMILIES["unrolled"].reference(plan, X.float().numpy()))
    halves = verify.half_roundings(plan.problem, plan.config)
    return verify.worst_ratio(Y, W, X, Gy=plan.config.parts, half_roundings=halves)


@given(data=st.data(), W=matrices(most=40).filter(lambda W: W.nnz > 0))
def test_program_is_within_its_bound(data: st.DataObject, W: SparseMatrix) -> None:
    N = data.draw(st.sampled_from([2, 4, 12]))
    problem = problem_for(W, N, x_dtype="float16", accumulate="float16")
    config = data.draw(legal_configs(problem, DEVICE, "unrolled"))
    plan = plan_spmm(problem, config, W.csr, DEVICE)
    X = torch.randn(W.shape[1], N, generator=torch.Generator().manual_seed(0)).half()
    assert reference_ratio(plan, W, X) <= 1.0


def test_sums_are_float16_and_not_the_float32_bound() -> None:
    W = weight("full", 8, 64)
    plan = planned(W, 64, vector=2)
    X = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)).half()
    assert reference_ratio(plan, W, X) <= 1.0
    exact = replace(plan, problem=replace(plan.problem, accumulate="float32"))
    assert reference_ratio(exact, W, X) <= 1.0
    Y = torch.from_numpy(FAMILIES["unrolled"].reference(plan, X.float().numpy()))
    assert verify.worst_ratio(Y, W, X) > 1.0


def test_the_bound_sees_a_dropped_weight() -> None:
    W = SparseMatrix.from_dense(torch.rand(8, 32) + 1)
    plan = planned(W, 4, vector=2)
    damaged = W.to_dense()
    damaged[3, 5] = 0
    X = (torch.rand(32, 4) + 1).half()
    assert reference_ratio(plan, W, X) <= 1.0
    Y = damaged.double() @ X.double()
    assert verify.worst_ratio(Y.float(), W, X, half_roundings=17) > 1.0


def test_range_law() -> None:
    """Below ``HALF_RANGE`` a sum is finite; beyond it may be Inf, and is excused."""
    ones = SparseMatrix.from_dense(torch.ones(2, 16))
    plan = planned(ones, 2, vector=2)
    below = torch.full((16, 2), numerics.HALF_RANGE / 16).half()
    below[0] = 0
    assert reference_ratio(plan, ones, below) <= 1.0
    X = torch.full((16, 2), 8192.0).half()
    Y = torch.from_numpy(FAMILIES["unrolled"].reference(plan, X.float().numpy()))
    assert Y.isinf().all()
    assert verify.worst_ratio(Y, ones, X, half_roundings=16) <= 1.0
    assert verify.worst_ratio(Y, ones, X) > 1.0


@pytest.mark.parametrize("value", [1e-5, 1e5, 2.0**-15, float("inf"), float("nan")])
def test_weights_that_are_no_normal_float16_are_multiplied_in_float32(value: float) -> None:
    W = SparseMatrix.from_dense(torch.tensor([[1.0, value, 0.0], [0.0, 2.0, 3.0]]))
    body = unrolled_program(planned(W, 4, vector=2)).bodies[0]
    wide = [op for op in body if isinstance(op, Fma)]
    assert len(wide) == 1 and repr(np.float32(wide[0].weight)) == repr(np.float32(value))
    assert sum(isinstance(op, HalfFma) for op in body) == 3
    assert [op.slot for op in body if isinstance(op, Widen)] == [wide[0].slot]
    if np.isfinite(value):
        X = torch.full((3, 4), 1e-3 if value > 1 else 1000.0).half()
        assert reference_ratio(planned(W, 4, vector=2), W, X) <= 1.0


@given(W=matrices(most=40), prefetch=st.sampled_from([1, 4]))
def test_no_float16_sum_is_longer_than_a_chunk(W: SparseMatrix, prefetch: int) -> None:
    for body in bodies(W, replace(ORDER, prefetch=prefetch)):
        held: dict[int, int] = {}
        for op in body:
            if isinstance(op, HalfFma):
                held[op.place] = held.get(op.place, 0) + 1
            if isinstance(op, Flush):
                assert 1 <= held.pop(op.place) <= numerics.HALF_CHUNK == 16
        assert not held


def bodies(W: SparseMatrix, order: Order) -> list[tuple[Op, ...]]:
    rows = partition_rows(W.csr, 8, "even_rows").rows
    entries = [group_entries(block_entries(W.csr, r), 2) for r in rows]
    return [schedule_body(e, order) for groups in entries for e in groups]


def test_verify_bites() -> None:
    W = weight("full", 2, 40)
    entries = group_entries(block_entries(W.csr, np.array([0, 1], dtype=np.int32)), 1)[0]
    body = schedule_body(entries, ORDER)
    verify_body(body, entries, 2)
    flushes = [i for i, op in enumerate(body) if isinstance(op, Flush)]
    assert len(flushes) == 6
    for at, words in ((0, "not one for float16 sums"), (-1, "unflushed")):
        i = flushes[at]
        with pytest.raises(BuildError, match=words):
            verify_body((*body[:i], *body[i + 1 :]), entries, 2)
    tiny = [op._replace(weight=1e-6) if isinstance(op, HalfFma) else op for op in body]
    with pytest.raises(BuildError):
        verify_body(tuple(tiny), entries, 2)


def test_text() -> None:
    W = weight("random", 32, 64, 0.4)
    for vector in (2, 4):
        plan = planned(W, 64, vector=vector, Gy=2)
        from sparse_triton.kernels.unrolled.kernel import unrolled_source

        text = unrolled_source(plan).constants["ASM"]
        ops = [op for body in unrolled_program(plan).bodies for op in body]
        halves = sum(isinstance(op, HalfFma) for op in ops)
        flushes = sum(isinstance(op, Flush) for op in ops)
        assert text.count("fma.rn.f16x2 ") == halves * vector // 2
        assert text.count("fma.rn.f32 ") == (W.nnz - halves) * vector
        assert len(re.findall(r"add\.rn\.f32 a\d_\d+, a\d_\d+, wide;", text)) == flushes * vector
        assert text.count("ld.global") == sum(isinstance(op, Load) for op in ops)


def test_float16_pair() -> None:
    assert float16_pair(1.0) == "0x3C003C00"
    assert float16_pair(-2.0) == "0xC000C000"
    assert float16_pair(0.1) == "0x2E662E66"


def test_only_pairs_of_columns_are_summed_in_float16() -> None:
    W = weight("random", 8, 16, 0.4)
    one = planned(W, 8, vector=1)
    assert verify.half_roundings(one.problem, one.config) == 0
    assert not any(isinstance(op, HalfFma) for b in unrolled_program(one).bodies for op in b)
    pair = planned(W, 8, vector=2)
    assert verify.half_roundings(pair.problem, pair.config) == 17  # W float32 is rounded
    exact = replace(pair.problem, w_dtype="bfloat16")
    assert verify.half_roundings(exact, pair.config) == 16
    assert verify.half_roundings(pair.problem, KernelConfig("gather")) == 0


def test_the_tuner_judges_each_configuration_by_its_own_sums() -> None:
    W = weight("random", 16, 64, 0.4)
    problem = problem_for(W, 8, x_dtype="float16", accumulate="float16")
    lab = Lab(W, problem, torch.device("cpu"))
    half, wide, gather = (
        lab._bound(lab.cases[0], config)
        for config in (
            KernelConfig("unrolled", vector=2),
            KernelConfig("unrolled", vector=1),
            KernelConfig("gather"),
        )
    )
    assert torch.equal(wide, gather)
    assert (half > wide).all()


def test_float16_sums_take_registers() -> None:
    problem = SpmmProblem(256, 64, 256, 1000, x_dtype="float16")
    config = KernelConfig("unrolled", 3, 4, vector=2, prefetch=4)
    assert why_not(problem, config, DEVICE) is None
    assert "accumulators" in (why_not(replace(problem, accumulate="float16"), config, DEVICE) or "")


# -- the option ------------------------------------------------------------------------------------


def test_keys() -> None:
    problem = SpmmProblem(64, 64, 64, 100, x_dtype="float16")
    half = replace(problem, accumulate="float16")
    assert "accumulate" not in problem.to_dict()
    plain, key = Key(problem, "ab"), Key(half, "ab")
    assert plain.sha256 != key.sha256
    assert Key.from_dict(key.to_dict()) == key and Key.from_dict(plain.to_dict()) == plain
    assert 100 <= distance(plain, key) < 200
    assert "float16 sums" in str(half) and "sums" not in str(problem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_float16_x(dtype: torch.dtype) -> None:
    W, X = weight("random", 6, 8, 0.4), torch.ones(8, 4, dtype=dtype)
    with pytest.raises(DtypeError, match=r"needs float16 X, got (float32|bfloat16); use X\.half"):
        spmm(W, X, accumulate="float16")
    with pytest.raises(DtypeError):
        linear(X.mT, W, accumulate="float16")
    with pytest.raises(DtypeError):
        sparse_triton.explain(W, X, accumulate="float16")
    with pytest.raises(InputError, match="'float32' or 'float16', got 'double'"):
        spmm(W, X, accumulate="double")


def test_calls() -> None:
    """A permission: what runs on a CPU sums in float32. Gradients are those of float32 sums."""
    W, X = weight("random", 6, 8, 0.4), torch.randn(8, 4).half().requires_grad_()
    plain = spmm(W, X)
    permitted = spmm(W, X, accumulate="float16")
    assert torch.equal(plain, permitted)
    grads = [torch.autograd.grad(Y.sum(), X)[0] for Y in (plain, permitted)]
    assert torch.equal(*grads)
    tokens = X.detach().mT.contiguous()
    assert torch.equal(linear(tokens, W, accumulate="float16"), linear(tokens, W))
    out = torch.empty(6, 4, dtype=torch.float16)
    assert spmm(W, X.detach(), out=out, accumulate="float16") is out
    assert torch.equal(out, plain.detach())
    call = Call(X, None, None, None, False, "float16")
    assert problem_of(W, call).accumulate == "float16"
    assert call.key() != call._replace(accumulate="float32").key()
    assert "float16 sums" in str(sparse_triton.explain(W, X, accumulate="float16"))


def test_autocast() -> None:
    W, X = weight("random", 6, 8, 0.4), torch.randn(8, 4)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(spmm(W, X, accumulate="float16"), spmm(W, X.half()))


def test_opcheck_and_compile() -> None:
    W = weight("random", 6, 8, 0.4)
    X = torch.randn(8, 4).half().requires_grad_()
    parts = (W.row_offsets, W.column_indices, W.values)
    options = (X, None, None, None, False, False)
    ops = torch.ops.sparse_triton
    torch.library.opcheck(ops.spmm.default, (*parts, *options, 6, 8, W.weight_id, "float16"))
    torch.library.opcheck(ops.spmm_dense.default, (W.to_dense(), *options, "float16"))
    compiled = torch.compile(
        lambda x: spmm(W, x, accumulate="float16"), fullgraph=True, backend="aot_eager"
    )
    Y = compiled(X)
    assert torch.equal(Y, spmm(W, X))
    assert torch.autograd.grad(Y.sum(), X)[0].isfinite().all()
