"""What ptxas makes of an unrolled program: every weight once, every load once, nothing spilled."""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from sparse_triton.build import TritonKernel, parts_of, resources, sass
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled import pieces
from sparse_triton.kernels.unrolled.ops import Load
from sparse_triton.kernels.unrolled.schedule import Program, unrolled_program
from sparse_triton.numerics import fits_half
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import Epilogue
from tests.support import draw_config, problem_for, weight

ARCHS = (80, 90, 100)


class Case(NamedTuple):
    pattern: str
    M: int
    K: int
    N: int
    x_dtype: str
    forced: dict[str, object]
    y_layout: str = "row"

    def __str__(self) -> str:
        forced = ",".join(f"{k}={v}" for k, v in self.forced.items())
        return f"{self.pattern}-{self.M}x{self.K}x{self.N}-{self.x_dtype}-{self.y_layout}-{forced}"


CASES = [
    Case("random", 64, 128, 128, "float32", {"vector": 1, "Gy": 1}),
    Case("random", 64, 128, 128, "float32", {"vector": 2, "Gy": 4, "sync_every": 128}),
    Case("random", 96, 64, 256, "float32", {"vector": 4, "Gy": 2}),
    Case("ragged", 64, 128, 49, "float32", {"vector": 1, "Gy": 8}),
    Case("empty_rows", 64, 64, 196, "float32", {"vector": 4, "Gy": 1}, "column"),
    Case("random", 64, 128, 128, "float16", {"vector": 1, "Gy": 2}),
    Case("random", 64, 128, 256, "float16", {"vector": 2, "Gy": 4}),
    Case("ragged", 64, 64, 256, "float16", {"vector": 4, "Gy": 2, "sync_every": 256}),
    Case("random", 64, 128, 128, "bfloat16", {"vector": 1, "Gy": 1}),
    Case("random", 64, 128, 128, "bfloat16", {"vector": 2, "Gy": 8}, "column"),
    Case("random", 64, 64, 128, "bfloat16", {"vector": 4, "Gy": 1}),
    Case("one", 7, 5, 1, "float32", {"vector": 1, "Gy": 2}),
    Case("full", 16, 24, 64, "float32", {"vector": 2, "Gy": 16}),
    Case("random", 64, 128, 256, "float32", {"Gy": 2, "stack": 2, "K_blocks": 1}),
    Case("random", 64, 128, 256, "float32", {"Gy": 2, "stack": 2, "K_blocks": 4}),
    Case("ragged", 128, 64, 128, "float16", {"Gy": 1, "stack": 4, "K_blocks": 8}),
    Case("random", 16, 128, 32768, "float32", {"vector": 2, "Gy": 2, "N_blocks": 256}),
    Case("random", 96, 256, 1024, "float32", {"starts": 4, "N_blocks": 2, "vector": 1}),
    Case("ragged", 64, 200, 512, "float16", {"starts": 2, "N_blocks": 1, "vector": 2}),
]


PLAIN = Epilogue()


@cache
def built(index: int, arch: int, epilogue: Epilogue = PLAIN) -> tuple[Plan, TritonKernel]:
    case = CASES[index]
    W = weight(case.pattern, case.M, case.K, 0.15, seed=index)
    problem = problem_for(
        W, case.N, x_dtype=case.x_dtype, y_layout=case.y_layout, epilogue=epilogue
    )
    device = Device.virtual_cuda(arch)
    rng = np.random.default_rng(index)
    forced = case.forced if arch >= 90 else {**case.forced, "K_blocks": 1}
    config = draw_config(rng, problem, device, "unrolled", **forced)
    assert config is not None
    plan = plan_spmm(problem, config, W.csr, device)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    return plan, kernel


def loads_of(program: Program) -> int:
    return sum(isinstance(op, Load) for body in program.bodies for op in body)


def used_columns(plan: Plan, program: Program) -> int:
    """Columns with a non-zero, counted for each (block, group): what has to be loaded."""
    at_least = 0
    for rows in program.rows:
        real = rows[rows >= 0]
        at_least += int((plan.csr.to_dense()[real] != 0).any(axis=0).sum())
    return at_least


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_machine_code(index: int, arch: int) -> None:
    plan, kernel = built(index, arch)
    code = sass(kernel)
    program = unrolled_program(plan)

    ffma = len(re.findall(r"\bFFMA\b", code))
    assert ffma == plan.problem.nnz * plan.config.vector

    # A group owns whole columns, so that no column of a block is loaded twice.
    assert loads_of(program) == used_columns(plan, program)
    row_numbers = kernel.source.constants["SHARE"]
    assert len(re.findall(r"\bLDG\b", code)) == loads_of(program) + row_numbers

    used = resources(kernel)
    assert used.spill_bytes == 0
    assert used.registers * 32 * kernel.source.num_warps <= plan.device.registers


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_every_load_lies_inside_x(index: int) -> None:
    """From the emitted text alone: base and offset of each load, and the width it reads."""
    plan, kernel = built(index, 90)
    problem, vector = plan.problem, plan.config.vector
    row_bytes, base, seen = problem.N * problem.x_itemsize, 0, 0
    width = vector * problem.x_itemsize
    for line in kernel.source.constants["ASM"].split("\n"):
        if re.match(r"B\d+_", line):
            base = 0
        if moved := re.match(r"add\.s64 p, \$\d+, (\d+);", line):
            base = int(moved.group(1))
        if load := re.match(r"ld\.global\S* .*\[p\+(\d+)\];", line):
            offset = int(load.group(1))
            assert offset < 2**23
            assert (base + offset) % row_bytes == 0
            # The widest lane starts at column N - vector, see ``spmm_unrolled``.
            last = base + offset + (problem.N - vector) * problem.x_itemsize + width
            assert last <= problem.K * row_bytes
            seen += 1
    assert seen == loads_of(unrolled_program(plan))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
def test_epilogues_compile_without_spills(arch: int, activation: str | None) -> None:
    epilogue = Epilogue(bias=True, residual=True, activation=activation)
    for index in (1, 6):
        plan, kernel = built(index, arch, epilogue)
        assert resources(kernel).spill_bytes == 0
        ffma = len(re.findall(r"\bFFMA\b", sass(kernel)))
        share = kernel.source.constants["SHARE"] * plan.config.vector
        weights = plan.problem.nnz * plan.config.vector
        # Each activation takes well under 32 instructions, a second program would take all of nnz.
        assert weights <= ffma <= weights + 32 * share


def test_largest_block_that_is_legal_does_not_spill() -> None:
    """The register budget of ``why_not`` is what ptxas can keep.

    Four columns a lane are left out: there ptxas spills a few registers in the epilogue at times.
    """
    for x_dtype, vector, prefetch in (("float32", 1, 32), ("float32", 2, 8), ("float16", 2, 16)):
        W = weight("random", 230, 64, 0.05, seed=1)
        problem = problem_for(W, 128, x_dtype=x_dtype)
        device = Device.virtual_cuda(90)
        for M_blocks in range(1, 40):
            config = KernelConfig(
                "unrolled", M_blocks, 128 // (32 * vector), vector=vector, prefetch=prefetch
            )
            if why_not(problem, config, device) is None:
                break
        plan = plan_spmm(problem, config, W.csr, device)
        kernel = plan.family.build(plan)
        assert isinstance(kernel, TritonKernel)
        assert resources(kernel).spill_bytes == 0, config


@pytest.mark.parametrize(("vector", "Gy"), [(2, 4), (2, 1), (4, 2)])
def test_float16_sums_take_one_instruction_for_two_columns(vector: int, Gy: int) -> None:
    W = weight("random", 64, 128, 0.15, seed=1)
    assert all(fits_half(float(value)) for value in W.csr.values)
    problem = problem_for(W, 256, x_dtype="float16", accumulate="float16")
    device = Device.virtual_cuda(90)
    config = KernelConfig("unrolled", 4, 256 // (32 * vector), vector=vector, Gy=Gy, prefetch=8)
    plan = plan_spmm(problem, config, W.csr, device)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    code = sass(kernel)
    # A weight of 1.0 becomes an HADD2; HFMA2 of zeros is how ptxas spells some moves: not counted.
    products = re.findall(r"\bH(?:FMA2|FMA2\.MMA|ADD2) \w+, R\d", code)
    assert len(products) == W.nnz * vector // 2
    assert not re.search(r"\bFFMA\b", code)
    assert resources(kernel).spill_bytes == 0


def test_loads_stay_where_they_were_written() -> None:
    """``prefetch`` columns ahead of their use; optimised, ptxas moves these to 21 instructions
    before it (median)."""
    W = weight("random", 256, 512, 0.05, seed=3)
    problem = problem_for(W, 8192)
    config = KernelConfig("unrolled", 4, 16, starts=4, prefetch=16, row_blocks="even_nnz")
    plan = plan_spmm(problem, config, W.csr, Device.virtual_cuda(90))
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    ahead = distances(sass(kernel))
    a_column = W.nnz / len(ahead) + 1
    assert np.median(ahead) > 0.8 * config.prefetch * a_column


def distances(code: str) -> list[int]:
    """Instructions from each load of a float to the first that uses it."""
    pending: dict[str, int] = {}
    found = []
    for i, line in enumerate(re.findall(r"\*/ +(?:@!?U?P\d+ )?([A-Z].*?) ;", code)):
        operands = re.findall(r"\bR\d+\b", line)
        if line.startswith("LDG") and operands:
            pending[operands[0]] = i
        else:
            found += [i - pending.pop(r) for r in operands[1:] if r in pending]
    return found


def instructions(code: str, *names: str) -> list[str]:
    """Those of the machine code that begin so, in order."""
    return re.findall(rf"\*/ +(?:@!?U?P\d+ )?((?:{'|'.join(names)})\S*)", code)


@pytest.mark.parametrize("vector", [1, 2])
def test_a_large_y_leaves_the_cache_first(vector: int) -> None:
    W = weight("random", 64, 32, 0.15, seed=3)
    small, large = (
        KernelConfig("unrolled", 1, N // (64 * vector), vector=vector) for N in (4096, 401408)
    )
    for config, N, store in ((small, 4096, "STG.E"), (large, 401408, "STG.E.EF")):
        plan = plan_spmm(problem_for(W, N), config, W.csr, Device.virtual_cuda(90))
        stores = instructions(sass(parts_of(plan.family.build(plan))[0]), "STG")
        assert stores == [store + (".64" if vector == 2 else "")] * 64


def test_a_large_x_leaves_the_cache_first_where_y_fits() -> None:
    """A policy stands in the descriptor of every load of X, and of no other."""
    W = weight("random", 32, 256, 0.1, seed=3)
    config = KernelConfig("unrolled", 1, 1568)
    plan = plan_spmm(problem_for(W, 100352), config, W.csr, Device.virtual_cuda(90))
    (kernel,) = parts_of(plan.family.build(plan))
    hinted = re.findall(r"ld\.global\.L2::cache_hint\.f32 .*, once;", kernel.compiled.asm["ptx"])
    assert len(hinted) == loads_of(unrolled_program(plan))
    loads = re.findall(r"LDG\.E R\d+, (desc\[UR\d+\])", sass(kernel))
    counts = sorted(loads.count(d) for d in set(loads))
    assert counts == [32, len(hinted)]  # row numbers, X


def test_row_numbers_are_fetched_eight_at_a_time() -> None:
    """A store keeps loads behind it: one wait for eight rows, not for each."""
    W = weight("random", 64, 32, 0.15, seed=3)
    config = KernelConfig("unrolled", 1, 64)
    plan = plan_spmm(problem_for(W, 4096), config, W.csr, Device.virtual_cuda(90))
    order = instructions(sass(parts_of(plan.family.build(plan))[0]), "STG", "LDG")
    waits = sum(a.startswith("STG") and b.startswith("LDG") for a, b in itertools.pairwise(order))
    assert waits == 7


def test_pieces_hold_the_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    W = weight("ragged", 100, 80, 0.2, seed=5)
    monkeypatch.setattr(pieces, "LONGEST_PIECE", W.nnz // 3 + 1)
    plan = plan_spmm(
        problem_for(W, 512), KernelConfig("unrolled", 6, 8), W.csr, Device.virtual_cuda(90)
    )
    parts = parts_of(plan.family.build(plan))
    assert len(parts) == 3
    assert sum(len(re.findall(r"\bFFMA\b", sass(part))) for part in parts) == W.nnz
    codes = [sass(part) for part in parts]
    assert ["CCTL.IVALL" in code for code in codes] == [False, True, True]  # X out of L1
