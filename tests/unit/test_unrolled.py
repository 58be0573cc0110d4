"""Unrolled programs: what they compute, that ``verify`` bites, and how they are spelled."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix, verify
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.columns import Columns, float32
from sparse_triton.kernels.unrolled.limits import Exchange, exchange_of
from sparse_triton.kernels.unrolled.ops import Fma, Load, Op, Rebase, Sync, Widen
from sparse_triton.kernels.unrolled.ptx import Spelling, emit, held_rows
from sparse_triton.kernels.unrolled.schedule import (
    OFFSET_REACH_BYTES,
    Order,
    Program,
    schedule,
    schedule_body,
    unrolled_program,
)
from sparse_triton.kernels.unrolled.schedule import verify as verify_body
from sparse_triton.partition import block_entries, group_entries, partition_rows
from sparse_triton.plan import plan_spmm
from tests.strategies import legal_configs, matrices
from tests.support import problem_for, weight

DEVICE = Device.virtual_cuda(90)


@given(data=st.data(), W=matrices(most=24).filter(lambda W: W.nnz > 0))
def test_program_is_within_the_bound(data: st.DataObject, W: SparseMatrix) -> None:
    N = data.draw(st.sampled_from([1, 2, 4, 12, 49]))
    problem = problem_for(W, N, x_dtype=data.draw(st.sampled_from(["float32", "bfloat16"])))
    config = data.draw(legal_configs(problem, DEVICE, "unrolled"))
    plan = plan_spmm(problem, config, W.csr, DEVICE)
    X = torch.randn(W.shape[1], N, generator=torch.Generator().manual_seed(0))
    Y = torch.from_numpy(FAMILIES["unrolled"].reference(plan, X.numpy()))
    assert verify.worst_ratio(Y, W, X, Gy=config.parts) <= 1.0


def test_nan_spreads_through_stored_weights_only() -> None:
    W = weight("random", 12, 16, 0.3)
    X = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    X[3, 1] = np.inf
    plan = plan_spmm(problem_for(W, 4), KernelConfig("unrolled", 2, Gy=4), W.csr, DEVICE)
    Y = FAMILIES["unrolled"].reference(plan, X)
    assert np.array_equal(~np.isfinite(Y[:, 1]), W.to_dense()[:, 3].numpy() != 0)
    assert np.isfinite(np.delete(Y, 1, axis=1)).all()


@given(
    W=matrices(most=16),
    parts=st.sampled_from([1, 2, 4, 8]),
    stack=st.sampled_from([1, 2, 4]),
    prefetch=st.sampled_from([1, 2, 4, 32]),
    sync_every=st.sampled_from([0, 1, 7]),
    widen=st.booleans(),
)
def test_schedule(
    W: SparseMatrix, parts: int, stack: int, prefetch: int, sync_every: int, widen: bool
) -> None:
    order = Order(prefetch, row_bytes=64, widen=widen, sync_every=sync_every)
    program = schedule(W.csr, 4, "even_nnz", parts, order, stack)
    bodies = program.bodies
    assert len(program.rows) % stack == 0
    assert len(bodies) == len(program.rows) * parts
    ops = [op for body in bodies for op in body]
    assert sum(isinstance(op, Fma) for op in ops) == W.nnz
    for b in range(len(program.rows)):
        block = bodies[b * parts : (b + 1) * parts]
        together = bodies[b // stack * stack * parts : (b // stack + 1) * stack * parts]
        assert len({sum(isinstance(op, Sync) for op in body) for body in together}) == 1
        loaded = [op.k for body in block for op in body if isinstance(op, Load)]
        used = W.csr.to_dense()[program.rows[b][program.rows[b] >= 0]].any(axis=0)
        assert sorted(loaded) == np.flatnonzero(used).tolist()
    for body in bodies:
        assert_slots_are_ready(body, widen, prefetch)


def assert_slots_are_ready(body: tuple[Op, ...], widen: bool, prefetch: int) -> None:
    """A slot is used only after its load (and widening), and never more are in flight."""
    state: dict[int, str] = {}
    for op in body:
        match op:
            case Load(slot, _):
                assert 0 <= slot <= prefetch
                state[slot] = "loaded"
            case Widen(slot):
                assert state[slot] == "loaded"
                state[slot] = "wide"
            case Fma(_, slot, _):
                assert state[slot] == ("wide" if widen else "loaded")


def body_of(W: SparseMatrix) -> tuple[list[Op], object]:
    rows = partition_rows(W.csr, 8, "even_rows").rows[0]
    entries = group_entries(block_entries(W.csr, rows), 1)[0]
    return list(schedule_body(entries, Order(4, 64, widen=False))), entries


def test_verify_bites() -> None:
    body, entries = body_of(weight("random", 8, 16, 0.4))
    verify_body(tuple(body), entries, 8)  # type: ignore[arg-type]
    at = [i for i, op in enumerate(body) if isinstance(op, Fma)]
    loads = [i for i, op in enumerate(body) if isinstance(op, Load)]
    first: Fma = body[at[3]]  # type: ignore[assignment]
    second: Fma = body[at[4]]  # type: ignore[assignment]

    def broken(changes: dict[int, Op | None]) -> tuple[Op, ...]:
        return tuple(
            changes.get(i, op) for i, op in enumerate(body) if changes.get(i, op) is not None
        )  # type: ignore[misc]

    load: Load = body[loads[2]]  # type: ignore[assignment]
    damage: dict[str, tuple[Op, ...]] = {
        "weights swapped": broken(
            {
                at[3]: first._replace(weight=second.weight),
                at[4]: second._replace(weight=first.weight),
            }
        ),
        "an Fma dropped": broken({at[3]: None}),
        "the last Fma dropped": broken({at[-1]: None}),
        "an Fma twice": (*body, body[at[-1]]),
        "wrong slot": broken({loads[2]: load._replace(slot=(load.slot + 1) % 5)}),
        "wrong column": broken({loads[2]: load._replace(k=load.k + 1)}),
        "wrong place": broken({at[3]: first._replace(place=first.place + 1)}),
        "a load dropped": broken({loads[0]: None}),
        "sign": broken({at[3]: first._replace(weight=-first.weight)}),
    }
    for name, ops in damage.items():
        with pytest.raises(BuildError, match=r"program (computes|leaves out)"):
            verify_body(ops, entries, 8)  # type: ignore[arg-type]
            pytest.fail(name)
    with pytest.raises(BuildError, match="outside the 3 accumulators"):
        verify_body(tuple(body), entries, 3)  # type: ignore[arg-type]


def test_rebase_keeps_offsets_in_reach() -> None:
    W = weight("random", 8, 128, 0.3)
    problem = problem_for(W, 65536)
    plan = plan_spmm(problem, KernelConfig("unrolled", 2, 512, Gy=2), W.csr, DEVICE)
    program = unrolled_program(plan)
    assert any(isinstance(op, Rebase) for body in program.bodies for op in body)
    row_bytes = problem.N * 4
    for body in program.bodies:
        base = 0
        for op in body:
            match op:
                case Rebase(k):
                    base = k
                case Load(_, k):
                    assert 0 <= (k - base) * row_bytes < OFFSET_REACH_BYTES
    exchange = exchange_of(problem, plan.config)
    text = emit(program, Spelling(Columns("float32", 1), row_bytes, exchange, False)).text
    assert f"add.s64 p, $4, {64 * row_bytes};" in text or "add.s64 p, $" in text
    assert max(int(n) for n in re.findall(r"\[p\+(\d+)\]", text)) < OFFSET_REACH_BYTES


@given(
    W=matrices(most=16),
    Gy=st.sampled_from([1, 2, 4]),
    K_blocks=st.sampled_from([1, 2]),
    stack=st.sampled_from([1, 2]),
    vector=st.sampled_from([1, 2, 4]),
    x_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    dependent=st.booleans(),
)
def test_text(
    W: SparseMatrix, Gy: int, K_blocks: int, stack: int, vector: int, x_dtype: str, dependent: bool
) -> None:
    order = Order(4, row_bytes=64, widen=x_dtype != "float32")
    program = schedule(W.csr, 8, "even_nnz", Gy * K_blocks, order, stack)
    exchange = Exchange(8, Gy, K_blocks, stack, lanes=32, vector=vector)
    asm = emit(program, Spelling(Columns(x_dtype, vector), 64, exchange, dependent))
    ops = [op for body in program.bodies for op in body]
    lines = asm.text.split("\n")
    assert sum(line.startswith("fma.rn.f32 ") for line in lines) == W.nnz * vector
    assert sum("ld.global" in line for line in lines) == sum(isinstance(op, Load) for op in ops)

    outputs = 8 // (Gy * K_blocks) * vector
    constraints = asm.constraints.split(",")
    assert constraints == ["=f"] * outputs + ["l", "r", "r"]
    operands = {int(n) for n in re.findall(r"\$(\d+)", asm.text)}
    assert operands <= set(range(len(constraints)))
    written = [line for line in lines if re.match(r"mov\.f32 \$\d+, a", line)]
    assert len(written) == outputs == len(set(written))
    assert asm.text.count("griddepcontrol") == (2 if dependent else 0)
    assert ("cluster" in asm.text) == (K_blocks > 1)
    labels = re.findall(r"^(\w+_\$\{:uid\}):", asm.text, re.MULTILINE)
    assert len(labels) == len(set(labels))
    assert sorted(label for label in labels if label.startswith("B")) == sorted(
        {f"B{i}_${{:uid}}" for i in range(len(program.bodies))}
        | ({"BODIES_${:uid}"} if len(program.bodies) > 1 else set())
    )


def test_weights_stand_in_the_text_bit_for_bit() -> None:
    W = weight("random", 8, 16, 0.4)
    program = schedule(W.csr, 8, "even_rows", 1, Order(4, 64, widen=False))
    exchange = Exchange(8, Gy=1, K_blocks=1, stack=1, lanes=32, vector=1)
    text = emit(program, Spelling(Columns("float32", 1), 64, exchange, False)).text
    found = re.findall(r"fma\.rn\.f32 .*, 0f([0-9A-F]{8}),", text)
    want = [f"{int(v.view(np.uint32)):08X}" for v in W.csr.values]
    assert sorted(found) == sorted(want)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "0f3F800000"),
        (-0.0, "0f80000000"),
        (0.0, "0f00000000"),
        (2.0**-149, "0f00000001"),
        (-(2.0**-126), "0f80800000"),
        (float("inf"), "0f7F800000"),
        (float("-inf"), "0fFF800000"),
        (3.4028234663852886e38, "0f7F7FFFFF"),
        (0.1, "0f3DCCCCCD"),
    ],
)
def test_float_printer(value: float, text: str) -> None:
    assert float32(value) == text


@given(bits=st.integers(0, 2**32 - 1))
def test_float_printer_round_trips(bits: int) -> None:
    value = np.uint32(bits).view(np.float32)
    back = np.uint32(int(float32(float(value))[2:], 16)).view(np.float32)
    assert np.isnan(back) if np.isnan(value) else back.view(np.uint32) == bits


@given(data=st.data(), W=matrices(most=24).filter(lambda W: W.nnz > 0))
def test_each_row_is_held_by_one_part(data: st.DataObject, W: SparseMatrix) -> None:
    problem = problem_for(W, 64)
    config = data.draw(legal_configs(problem, DEVICE, "unrolled"))
    program = unrolled_program(plan_spmm(problem, config, W.csr, DEVICE))
    held = held_rows(program, exchange_of(problem, config))
    assert held.shape == (len(program.rows), config.parts, program.block_m // config.parts)
    assert sorted(held[held >= 0].tolist()) == list(range(W.shape[0]))


@given(
    block_m=st.sampled_from([16, 32, 64, 96, 128]),
    Gy=st.sampled_from([1, 2, 4, 8]),
    K_blocks=st.sampled_from([1, 2, 4, 8]),
    stack=st.sampled_from([1, 2]),
    lanes=st.sampled_from([32, 64, 128]),
    vector=st.sampled_from([1, 2, 4]),
)
def test_exchange_as_the_text_does_it(
    block_m: int, Gy: int, K_blocks: int, stack: int, lanes: int, vector: int
) -> None:
    """Run the emitted stores and loads on a model of the cluster's shared memories: every sum meets
    each of its partials once, in part order, and no address lies outside ``shared_bytes``."""
    exchange = Exchange(block_m, Gy, K_blocks, stack, lanes, vector)
    if exchange.parts == 1 or block_m % exchange.parts or exchange.shared_bytes > 48 * 1024:
        return
    for lane, block in ((0, 0), (lanes - 1, stack - 1)):
        sums = exchanged(exchange, block, lane)
        for part, held in enumerate(sums):
            places = held_places(exchange, part)
            for i, place in enumerate(places):
                for j in range(vector):
                    want = [(q, j, place) for q in range(exchange.parts)]
                    assert held[f"a{j}_{i}"] == want


def held_places(exchange: Exchange, part: int) -> list[int]:
    rows = np.arange(exchange.block_m, dtype=np.int32)[None, :]
    program = Program(rows, exchange.parts, ())
    return [int(place) for place in held_rows(program, exchange)[0, part]]


def exchanged(exchange: Exchange, block: int, lane: int) -> list[dict[str, list[tuple[int, ...]]]]:
    """Registers of each part after the exchange; a value is the list of partials in it."""
    from sparse_triton.kernels.unrolled.ptx import _exchange

    text = list(_exchange(exchange, "BODY", "LANE"))
    memory: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    registers = [
        {
            f"a{j}_{i}": [(part, j, i)]
            for j in range(exchange.vector)
            for i in range(exchange.block_m)
        }
        for part in range(exchange.parts)
    ]
    for line in text:
        if found := re.match(r"st\.\S+ \[mine_in(\d+)\+(\d+)\], \{?([^}]*)\}?;", line):
            rank, at = int(found[1]), int(found[2])
            for part, held in enumerate(registers):
                o = at + base(exchange, block, lane) + part * exchange.lanes * 4 * exchange.quad
                for n, name in enumerate(found[3].split(", ")):
                    assert o + 4 * n < exchange.shared_bytes
                    memory[rank, o + 4 * n] = held[name]
        elif found := re.match(r"ld\.\S+ \{?([^}]*)\}?, \[theirs\+(\d+)\];", line):
            for part, held in enumerate(registers):
                o = int(found[2]) + base(exchange, block, lane) + theirs(exchange, part, text)
                for n, name in enumerate(found[1].split(", ")):
                    held[name] = memory[part // exchange.Gy, o + 4 * n]
        elif found := re.match(r"add\.rn\.f32 (\w+), (\w+), (\w+);", line):
            for held in registers:
                held[found[1]] = held[found[2]] + held[found[3]]
    return registers


def base(exchange: Exchange, block: int, lane: int) -> int:
    return block * exchange.block_bytes + lane * 4 * exchange.quad


def theirs(exchange: Exchange, part: int, text: list[str]) -> int:
    found = [m for t in text if (m := re.match(r"mad\.lo\.u32 theirs, part, (\d+), o;", t))]
    (step,) = found
    return part % exchange.Gy * int(step[1])


def test_program_of_a_damaged_weight_differs() -> None:
    """The interpreter reads the program, not the weight: a changed program changes the result."""
    W = weight("random", 8, 16, 0.4)
    program = schedule(W.csr, 8, "even_rows", 1, Order(4, 64, widen=False))
    at = next(i for i, op in enumerate(program.bodies[0]) if isinstance(op, Fma))
    body = (*program.bodies[0][:at], *program.bodies[0][at + 1 :])
    from sparse_triton.kernels.unrolled.interpreter import interpret

    X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    whole = interpret(program, X.numpy())
    dropped: Program = replace(program, bodies=(body,))
    assert verify.worst_ratio(torch.from_numpy(whole), W, X) <= 1.0
    assert verify.worst_ratio(torch.from_numpy(interpret(dropped, X.numpy())), W, X) > 1.0
