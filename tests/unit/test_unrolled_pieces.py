"""Long programs in pieces: what each holds, and when it waits for what."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled import pieces
from sparse_triton.kernels.unrolled.schedule import unrolled_program
from sparse_triton.plan import plan_spmm
from tests.support import problem_for, weight

WAIT, LET_GO = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"


def planned(config: KernelConfig, arch: int = 90) -> Plan:
    W = weight("ragged", 96, 80, 0.2, seed=5)
    return plan_spmm(problem_for(W, 1024), config, W.csr, Device.virtual_cuda(arch))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONGEST_PIECE", 430)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (KernelConfig("unrolled", 6, 8), [1, 2, 1, 2]),  # 1628 products, 6 row blocks
        (KernelConfig("unrolled", 6, 8, stack=2, Gy=2), [2, 2, 2]),  # whole stacks
        (KernelConfig("unrolled", 2, 4, starts=2), [1, 1]),  # no more pieces than row blocks
        (KernelConfig("unrolled", 1, 8), [1]),
    ],
)
def test_each_row_block_is_one_piece_s(config: KernelConfig, sizes: list[int]) -> None:
    plan = planned(config)
    program = unrolled_program(plan)
    parts = list(pieces.cut(program, plan))
    assert [len(part.rows) for part in parts] == sizes
    assert np.array_equal(np.concatenate([part.rows for part in parts]), program.rows)
    assert sum((part.bodies for part in parts), ()) == program.bodies


def test_when_a_piece_waits() -> None:
    """The first one for X, before it lets the next begin; later ones at their end, for the piece
    before."""
    config = KernelConfig("unrolled", 6, 8, stack=2, Gy=2)
    first, *later = (s.constants["ASM"].split("\n") for s in pieces.piece_sources(planned(config)))
    assert len(later) == 2
    body = first.index("B0_${:uid}:")
    assert first.index(WAIT) < first.index(LET_GO) < body and first.count(WAIT) == 1
    for lines in later:
        begin, done = lines.index("B0_${:uid}:"), lines.index("DONE_${:uid}:")
        assert lines.index(LET_GO) < lines.index("fence.acq_rel.gpu;") < begin
        assert lines.count(WAIT) == 1 and lines.index(WAIT) == done + 1
        assert any(line.startswith("bar.sync") for line in lines[done:])  # the exchange is after it


def test_kernels_of_older_devices_run_one_after_the_other() -> None:
    sources = pieces.piece_sources(planned(KernelConfig("unrolled", 6, 8), arch=80))
    assert len(sources) == 4
    assert not any("griddepcontrol" in source.constants["ASM"] for source in sources)
    assert not any(source.options["launch_pdl"] for source in sources)


def test_a_grid_for_each_piece() -> None:
    config = KernelConfig("unrolled", 6, 8, fastest="columns")
    grids = [source.grid for source in pieces.piece_sources(planned(config))]
    assert grids == [(8, 1, 1), (8, 2, 1), (8, 1, 1), (8, 2, 1)]


def test_a_short_program_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONGEST_PIECE", 2000)
    (source,) = pieces.piece_sources(planned(KernelConfig("unrolled", 6, 8)))
    lines = source.constants["ASM"].split("\n")
    assert lines.index(LET_GO) < lines.index(WAIT) < lines.index("B0_${:uid}:")
