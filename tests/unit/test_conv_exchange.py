"""The exchange of partials as its text does it: a cluster of interpreted threads."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sparse_triton.config import KernelConfig
from sparse_triton.kernels.conv.exchange import emit_exchange, emit_window
from sparse_triton.kernels.conv.shape import Shape, gather_shape, unrolled_shape
from sparse_triton.kernels.conv.tile import ANCHOR_BYTES
from sparse_triton.problem import ConvProblem
from tests.ptx import Thread

LAYER = ConvProblem(1, 8, 6, 6, 32, 3, 3, 100, padding=(1, 1, 1, 1))
PROGRAM = 1 << 17  # bytes from one program's shared memory to the next one's
SHAPES = {
    "groups of a program": KernelConfig("gather", 8, 2, Gy=4),
    "cluster": KernelConfig("gather", 8, 2, K_blocks=4, repeat=2),
    "cluster of groups": KernelConfig("gather", 4, 2, Gy=2, K_blocks=2, stack=2),
    "a thread's sums for two programs": KernelConfig("gather", 16, 2, K_blocks=4, stack=4),
    "threads with nothing to finish": KernelConfig("gather", 4, 2, Gy=4, K_blocks=8),
    "unrolled": KernelConfig("unrolled", 2, 1, Gy=4, repeat=2),
    "unrolled cluster": KernelConfig("unrolled", 2, 2, Gy=2, K_blocks=4),
}


def shape_of(config: KernelConfig) -> Shape:
    return (gather_shape if config.kernel == "gather" else unrolled_shape)(LAYER, config)


def partial(slot: int, part: int, lane: int) -> int:
    return (slot * 64 + part) * 1024 + lane + 1


class Cluster:
    """All threads of ``K_blocks`` programs."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.memory = np.zeros(shape.K_blocks * PROGRAM, dtype=np.uint8)
        lines = emit_exchange(shape).text.strip("{}\n").split("\n")
        wait = next(i for i, t in enumerate(lines) if "WAIT" in t or (t == "bar.sync 0;" and i > 9))
        self.send = [t for t in map(self._spelled, lines[:wait]) if t]
        self.add = [t for t in map(self._spelled, lines[wait:]) if t]
        self.threads = [
            self._thread(rank, t) for rank in range(shape.K_blocks) for t in range(shape.threads)
        ]

    def _spelled(self, line: str) -> str | None:
        """Programs of the cluster lie in one memory; waiting is left out."""
        if line.startswith(("bar", "@!done", "WAIT", "mbarrier")):
            return None
        line = re.sub(r"mapa\S* (\w+), (\w+), (\w+)", rf"mad.lo.u32 \1, \3, {PROGRAM}, \2", line)
        return re.sub(r"st\.async\S* (.*), \[bar\]", r"st.cluster.f32 \1", line)

    def _thread(self, rank: int, number: int) -> Thread:
        s = self.shape
        row, lane = divmod(number, s.lanes)
        group, place = divmod(row, s.row_groups // s.Gy)
        values = [partial(place * s.sums + i, rank * s.Gy + group, lane) for i in range(s.sums)]
        inputs = [ANCHOR_BYTES, number, rank, *values]
        registers = {f"${s.held + i}": value for i, value in enumerate(inputs)}
        own = self.memory[rank * PROGRAM : (rank + 1) * PROGRAM]
        return Thread(registers, {"shared": own, "cluster": self.memory})

    def run(self) -> None:
        for thread in self.threads:
            thread.run(self.send)
        for thread in self.threads:
            thread.run(self.add)


@pytest.mark.parametrize("name", SHAPES)
def test_every_partial_meets_its_sum(name: str) -> None:
    shape = shape_of(SHAPES[name])
    cluster = Cluster(shape)
    cluster.run()
    for number, thread in enumerate(cluster.threads):
        rank, at = divmod(number, shape.threads)
        row, lane = divmod(at, shape.lanes)
        for i in range(shape.held):
            slot = row * shape.held + i
            if slot < shape.slots:
                parts = range(shape.parts)
                want = sum(partial(rank * shape.slots + slot, q, lane) for q in parts)
                assert thread.registers[f"${i}"] == want & 0xFFFFFFFF


@pytest.mark.parametrize("name", SHAPES)
def test_partials_fill_their_part_of_the_window(name: str) -> None:
    """As many bytes as the barrier waits for, none where the tile lies while others send."""
    shape = shape_of(SHAPES[name])
    cluster = Cluster(shape)
    for thread in cluster.threads:
        thread.run(cluster.send)
    start = ANCHOR_BYTES + shape.partials_from
    for rank in range(shape.K_blocks):
        words = cluster.memory[rank * PROGRAM : (rank + 1) * PROGRAM].view(np.uint32)
        filled = np.flatnonzero(words) * 4
        assert filled.tolist() == list(range(start, start + shape.exchange_bytes, 4))
    if shape.K_blocks > 1:
        assert shape.partials_from >= shape.staged_bytes
        assert f", {shape.exchange_bytes};" in emit_window(shape).text
    assert shape.partials_from + shape.exchange_bytes <= shape.shared_bytes


@pytest.mark.parametrize("name", SHAPES)
def test_a_partial_is_announced_where_it_is_sent(name: str) -> None:
    shape = shape_of(SHAPES[name])
    text = emit_exchange(shape).text
    sent = re.findall(r"st\.async\S* \[to\+\d+\], \$\d+, \[bar\]", text)
    assert len(sent) == (shape.sums if shape.K_blocks > 1 else 0)
    mapped = re.findall(r"mapa\S* (\w+), \w+, (\w+);", text)
    assert {owner for _, owner in mapped} <= {"owner"}
    assert [name for name, _ in mapped] == ["to", "bar"] * (len(mapped) // 2)
