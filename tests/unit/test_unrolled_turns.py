"""Chunks of a body in turns: laws, which order a warp takes, and that nothing is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.unrolled.estimate import in_turns
from sparse_triton.kernels.unrolled.kernel import unrolled_source
from sparse_triton.kernels.unrolled.limits import chunks_of
from sparse_triton.kernels.unrolled.ops import Fma
from sparse_triton.kernels.unrolled.schedule import unrolled_program
from sparse_triton.kernels.unrolled.turns import turns
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import SpmmProblem
from tests.ptx import Thread
from tests.support import problem_for, weight

H100 = Device("cuda", "H100", 90, cores=132, shared_bytes=232448)
PROBLEM = SpmmProblem(512, 512, 8192, 26214)
CONFIG = KernelConfig("unrolled", 8, 16, starts=4)


def visited(body: int, start: int, starts: int, chunks: int, bodies: int) -> list[int]:
    """Labels in the order in which a thread comes by."""
    labels = [f"B{i}" for i in range(bodies * chunks)]
    lines = list(turns("body", "start", starts, chunks, labels))
    for i, label in enumerate(labels):
        lines += [f"{label}:", f"st.log.u32 [at], {i};", "add.u32 at, at, 4;", "bra.uni NEXT;"]
    log = np.zeros(4 * chunks, dtype=np.uint8)
    thread = Thread({"body": body, "start": start, "at": 0}, {"log": log})
    thread.run([*lines, "DONE:"])
    assert thread.registers["at"] == 4 * chunks
    return [int(i) for i in log.view(np.uint32)]


def test_rounds_one_after_the_other_each_from_the_own_chunk_on() -> None:
    assert visited(1, 2, 4, 8, 3) == [10, 11, 8, 9, 14, 15, 12, 13]
    assert visited(0, 0, 2, 4, 1) == [0, 1, 2, 3]
    assert visited(0, 1, 2, 4, 1) == [1, 0, 3, 2]


def test_a_round_fits_an_instruction_cache() -> None:
    assert chunks_of(PROBLEM, replace(CONFIG, starts=1)) == 1
    assert chunks_of(PROBLEM, CONFIG) == 4 * 4  # 59 KiB of code
    assert chunks_of(PROBLEM, replace(CONFIG, starts=2)) == 2 * 4
    assert chunks_of(replace(PROBLEM, nnz=1000, K=64), CONFIG) == 4


def test_untuned_calls_take_turns_where_large_programs_fill_the_device() -> None:
    def default(M: int, K: int, N: int, nnz: int) -> KernelConfig:
        return FAMILIES["unrolled"].default_config(SpmmProblem(M, K, N, nnz), H100)

    assert (default(512, 512, 8192, 26214).starts, default(512, 512, 8192, 26214).N_blocks) == (
        4,
        16,
    )
    assert default(128, 512, 25088, 6553).starts == 2  # X comes from memory
    assert default(512, 512, 6272, 26214).Gy == 2  # 104 programs, 132 multiprocessors
    assert (default(256, 1024, 6272, 26214).M_blocks, default(256, 1024, 6272, 26214).Gy) == (6, 4)
    assert default(64, 256, 100352, 1638).Gy == 4
    assert default(128, 128, 100352, 1638).stack == default(128, 128, 100352, 1638).Gy == 2
    assert default(256, 64, 100352, 1638).stack == 4
    assert default(256, 1024, 6272, 13107).stack == 2  # half the non-zeros: two blocks
    for M, nnz in ((256, 819), (64, 205)):  # three to four non-zeros a row
        short = default(M, 64, 100352, nnz)
        assert (short.vector, short.stack, M // short.M_blocks) == (2, M // 32, 32)


@pytest.mark.parametrize(
    ("M", "N", "nnz", "us"),
    [(512, 8192, 26214, 28.1), (512, 8192, 13107, 22.9), (2048, 1568, 52428, 25.5)],
)
def test_the_estimate_is_near_what_was_measured(M: int, N: int, nnz: int, us: float) -> None:
    found = in_turns(SpmmProblem(M, 512, N, nnz), H100)
    assert found is not None and abs(found[0] / us - 1) < 0.05
    assert found[1] == FAMILIES["unrolled"].default_config(SpmmProblem(M, 512, N, nnz), H100)
    assert found[1].starts == 4 and found[1].M_blocks == M // 64


def test_where_programs_of_a_multiprocessor_each_do_not_pay() -> None:
    problem = SpmmProblem(512, 512, 8192, 26214)
    assert in_turns(replace(problem, N=6272), H100) is None  # 104 of 132 multiprocessors
    assert in_turns(replace(problem, M=2048, N=1200), H100) is None  # a fifth of the lanes idle
    assert in_turns(replace(problem, nnz=16 * 512), H100) is None  # bound by memory
    assert in_turns(replace(problem, x_dtype="float16", w_dtype="float16"), H100) is None
    tall = in_turns(replace(problem, M=2048, nnz=52428), H100)
    assert tall is not None and tall[1].M_blocks == 24  # three waves of 86 rows, not four of 64


def test_chunks_are_the_body_in_k_order() -> None:
    W = weight("ragged", 40, 900, 0.2)
    problem = problem_for(W, 1024)
    cut = plan_spmm(problem, KernelConfig("unrolled", 2, 2, starts=4), W.csr, H100)
    whole = replace(cut, config=replace(cut.config, starts=1))
    program, plain = unrolled_program(cut), unrolled_program(whole)
    assert program.chunks == chunks_of(problem, cut.config) > 4
    for i in range(2):
        products = [[op for op in p.whole_body(i) if isinstance(op, Fma)] for p in (program, plain)]
        assert [(f.place, f.weight) for f in products[0]] == [
            (f.place, f.weight) for f in products[1]
        ]
    X = np.random.default_rng(0).standard_normal((900, 8)).astype(np.float32)
    family = FAMILIES["unrolled"]
    assert np.array_equal(family.reference(cut, X), family.reference(whole, X))


@pytest.mark.parametrize(
    ("change", "N", "arch", "cluster"),
    [
        ({}, 2048, 90, 2),
        ({}, 1536, 90, 1),  # three tiles
        ({}, 2048, 80, 1),
        ({"fastest": "rows"}, 2048, 90, 1),
        ({"starts": 2}, 2048, 90, 1),  # two programs a multiprocessor
        ({}, 512 * 68, 90, 1),  # more programs than multiprocessors
    ],
    ids=str,
)
def test_programs_that_are_alone_share_an_instruction_cache_with_one_of_their_code(
    change: dict[str, Any], N: int, arch: int, cluster: int
) -> None:
    W = weight("random", 128, 64, 0.2)
    config = KernelConfig("unrolled", 2, N // 512, starts=4, prefetch=4, fastest="columns")
    device = replace(H100, arch=arch)
    source = unrolled_source(plan_spmm(problem_for(W, N), replace(config, **change), W.csr, device))
    assert source.cluster == cluster
    assert math.prod(source.grid) * cluster == N // 512 * 2


def test_every_chunk_counts_from_the_pointer_again() -> None:
    """Rows lie further apart than a load reaches: a chunk moves the pointer, the next one may be an
    earlier one."""
    W = weight("random", 16, 128, 0.3)
    plan = plan_spmm(
        problem_for(W, 1 << 17), KernelConfig("unrolled", 1, 256, starts=4), W.csr, H100
    )
    lines = unrolled_source(plan).constants["ASM"].split("\n")
    labels = [i for i, line in enumerate(lines) if line.startswith("B") and line.endswith(":")]
    assert len(labels) == unrolled_program(plan).chunks
    assert all(lines[i + 1].startswith("mov.b64 p, $") for i in labels)
    assert any(line.startswith("add.s64 p, $") for line in lines)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"starts": 3}, "starts must be a power of two, got 3"),
        ({"sync_every": 128}, "sync_every must be 0, got 128; use starts=1"),
        ({"N_blocks": 32}, "512 lanes, got 256; use fewer N_blocks or starts"),
    ],
)
def test_laws(config: dict[str, int], reason: str) -> None:
    assert why_not(PROBLEM, CONFIG, H100) is None
    assert reason in str(why_not(PROBLEM, replace(CONFIG, **config), H100))  # type: ignore[arg-type]
