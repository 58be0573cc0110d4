"""Decides *what* an unrolled program does and in which order; ``ptx.py`` only spells it.

The bodies of a row block each own a run of columns. Loads are issued ``prefetch`` columns ahead
of their use, through a ring of ``prefetch + 1`` slots.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparse_triton.config import RowBlocks
from sparse_triton.errors import BuildError
from sparse_triton.kernels.unrolled.limits import unrolled_shape
from sparse_triton.kernels.unrolled.ops import Fma, Load, Op, Rebase, Sync, Widen
from sparse_triton.partition import NO_ROW, Entries, block_entries, group_entries, partition_rows
from sparse_triton.pattern import CSR, Int32

if TYPE_CHECKING:
    from sparse_triton.plan import Plan

# Loads reach this far from their base pointer: the offset field of a load has 24 bits, signed.
OFFSET_REACH_BYTES = 1 << 23


@dataclass(frozen=True, eq=False)
class Program:
    """Bodies of all blocks and parts: ``bodies[b * parts + q]``, with ``rows`` [blocks, block_m].

    Part q is group ``q mod Gy`` of program ``q // Gy`` of the cluster.
    """

    rows: Int32
    parts: int
    bodies: tuple[tuple[Op, ...], ...]

    @property
    def block_m(self) -> int:
        return int(self.rows.shape[1])


@dataclass(frozen=True)
class Order:
    """How a body is ordered: everything ``schedule_body`` needs besides its entries."""

    prefetch: int
    row_bytes: int
    widen: bool
    sync_every: int = 0


def unrolled_program(plan: Plan) -> Program:
    """The plan's instructions, before they are spelled."""
    problem, config = plan.problem, plan.config
    block_m, _ = unrolled_shape(problem, config)
    order = Order(
        prefetch=config.prefetch,
        row_bytes=problem.N * problem.x_itemsize,
        widen=problem.x_dtype != "float32",
        sync_every=config.sync_every,
    )
    return schedule(plan.csr, block_m, config.row_blocks, config.parts, order, config.stack)


def schedule(
    csr: CSR, block_m: int, row_blocks: RowBlocks, parts: int, order: Order, stack: int = 1
) -> Program:
    """Programs for every row block of the matrix, verified; empty ones fill the last stack."""
    rows_of = partition_rows(csr, block_m, row_blocks).rows
    rows_of = np.pad(rows_of, ((0, -len(rows_of) % stack), (0, 0)), constant_values=NO_ROW)
    bodies = []
    for rows in rows_of:
        for entries in group_entries(block_entries(csr, rows), parts):
            body = schedule_body(entries, order)
            verify(body, entries, block_m)
            bodies.append(body)
    if order.sync_every:
        bodies = _insert_syncs(bodies, stack * parts, order.sync_every)
    return Program(rows_of, parts, tuple(bodies))


def schedule_body(entries: Entries, order: Order) -> tuple[Op, ...]:
    """Loads, widenings and FMAs of one group, loads ``prefetch`` columns ahead."""
    columns = [
        (k, list(group))
        for k, group in itertools.groupby(
            zip(
                entries.columns.tolist(),
                entries.places.tolist(),
                entries.values.tolist(),
                strict=True,
            ),
            key=lambda entry: entry[0],
        )
    ]
    slots = order.prefetch + 1
    ops: list[Op] = []
    base = 0
    for i in range(len(columns) + order.prefetch):
        if i < len(columns):
            k = columns[i][0]
            if (k - base) * order.row_bytes >= OFFSET_REACH_BYTES:
                base = k
                ops.append(Rebase(k))
            ops.append(Load(i % slots, k))
        used = i - order.prefetch
        if used >= 0:
            if order.widen:
                ops.append(Widen(used % slots))
            ops += [Fma(place, used % slots, weight) for _, place, weight in columns[used][1]]
    return tuple(ops)


def _insert_syncs(bodies: list[tuple[Op, ...]], together: int, every: int) -> list[tuple[Op, ...]]:
    """The same number of barriers in each of a program's bodies, about ``every`` ops apart."""
    out = []
    for b in range(0, len(bodies), together):
        block = bodies[b : b + together]
        barriers = max(len(body) for body in block) // every
        out += [_spread(body, barriers) for body in block]
    return out


def _spread(body: tuple[Op, ...], barriers: int) -> tuple[Op, ...]:
    cuts = [len(body) * (i + 1) // (barriers + 1) for i in range(barriers)]
    parts = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
    out: list[Op] = list(parts[0])
    for part in parts[1:]:
        out += [Sync(), *part]
    return tuple(out)


def verify(body: tuple[Op, ...], entries: Entries, block_m: int) -> None:
    """Each non-zero once, each Fma after the Load of its column, places within the budget."""
    expected = deque(
        zip(entries.columns.tolist(), entries.places.tolist(), entries.values.tolist(), strict=True)
    )
    holds: dict[int, int] = {}
    for op in body:
        match op:
            case Load(slot, k):
                holds[slot] = k
            case Fma(place, slot, weight):
                want = expected.popleft() if expected else None
                got = (holds.get(slot), place, weight)
                if want is None or got[:2] != want[:2] or not _same(got[2], want[2]):
                    raise BuildError(f"program computes {got}, the weight has {want} there")
                if not 0 <= place < block_m:
                    raise BuildError(f"place {place} is outside the {block_m} accumulators")
    if expected:
        raise BuildError(f"program leaves out {len(expected)} non-zeros, first {expected[0]}")


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
