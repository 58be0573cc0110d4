"""Decides *what* an unrolled program does and in which order; ``ptx.py`` only spells it.

The bodies of a row block each own a run of columns. Loads are issued ``prefetch`` columns ahead
of their use, through a ring of ``prefetch + 1`` slots.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sparse_triton.config import RowBlocks
from sparse_triton.errors import BuildError
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.limits import accumulates_half, chunks_of, unrolled_shape
from sparse_triton.kernels.unrolled.ops import (
    Flush,
    Fma,
    HalfFma,
    Load,
    Op,
    Rebase,
    Sync,
    Widen,
)
from sparse_triton.numerics import HALF_CHUNK, fits_half
from sparse_triton.partition import NO_ROW, Entries, block_entries, group_entries, partition_rows
from sparse_triton.pattern import CSR, Int32

# Loads reach this far from their base pointer: the offset field of a load has 24 bits, signed.
OFFSET_REACH_BYTES = 1 << 23


@dataclass(frozen=True, eq=False)
class Program:
    """Bodies of all blocks and parts: ``bodies[b * parts + q]``, with ``rows`` [blocks, block_m].

    Part q is group ``q mod Gy`` of program ``q // Gy`` of the cluster. A body that warps begin at
    different places stands there as ``chunks`` in k order, one after the other.
    """

    rows: Int32
    parts: int
    bodies: tuple[tuple[Op, ...], ...]
    chunks: int = 1

    @property
    def block_m(self) -> int:
        return int(self.rows.shape[1])

    def some_blocks(self, first: int, end: int) -> Program:
        """Row blocks ``first ... end - 1``."""
        each = len(self.bodies) // len(self.rows)
        return replace(
            self, rows=self.rows[first:end], bodies=self.bodies[first * each : end * each]
        )

    def whole_body(self, i: int) -> tuple[Op, ...]:
        """All chunks of body ``b * parts + q``."""
        chunks = self.bodies[i * self.chunks : (i + 1) * self.chunks]
        return tuple(itertools.chain.from_iterable(chunks))


@dataclass(frozen=True)
class Order:
    """How a body is ordered: everything ``schedule_body`` needs besides its entries.

    half  weights that fit are multiplied and summed in float16, at most ``HALF_CHUNK`` products
          between two flushes; the others in float32
    """

    prefetch: int
    row_bytes: int
    widen: bool
    sync_every: int = 0
    half: bool = False


def unrolled_program(plan: Plan) -> Program:
    """The plan's instructions, before they are spelled."""
    problem, config = plan.problem, plan.config
    block_m, _ = unrolled_shape(problem, config)
    order = Order(
        prefetch=config.prefetch,
        row_bytes=problem.N * problem.x_itemsize,
        widen=problem.x_dtype != "float32",
        sync_every=config.sync_every,
        half=accumulates_half(problem, config),
    )
    chunks = chunks_of(problem, config)
    return schedule(plan.csr, block_m, config.row_blocks, config.parts, order, config.stack, chunks)


def schedule(
    csr: CSR,
    block_m: int,
    row_blocks: RowBlocks,
    parts: int,
    order: Order,
    stack: int = 1,
    chunks: int = 1,
) -> Program:
    """Programs for every row block of the matrix, verified; empty ones fill the last stack."""
    rows_of = partition_rows(csr, block_m, row_blocks).rows
    rows_of = np.pad(rows_of, ((0, -len(rows_of) % stack), (0, 0)), constant_values=NO_ROW)
    bodies = []
    for rows in rows_of:
        for entries in group_entries(block_entries(csr, rows), parts * chunks):
            body = schedule_body(entries, order)
            verify(body, entries, block_m)
            bodies.append(body)
    if order.sync_every:
        bodies = _insert_syncs(bodies, stack * parts, order.sync_every)
    return Program(rows_of, parts, tuple(bodies), chunks)


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
            ops += _products(used % slots, columns[used][1], order)
    return tuple(_flushed(ops)) if order.half else tuple(ops)


def _products(slot: int, entries: list[tuple[int, int, float]], order: Order) -> Iterator[Op]:
    """All products of one column; it is widened where any of them is a float32 one."""
    halves = [order.half and fits_half(weight) for _, _, weight in entries]
    if order.widen and not all(halves):
        yield Widen(slot)
    for (_, place, weight), half in zip(entries, halves, strict=True):
        yield HalfFma(place, slot, weight) if half else Fma(place, slot, weight)


def _flushed(ops: list[Op]) -> Iterator[Op]:
    """A ``Flush`` after every ``HALF_CHUNK`` products of a place, and after its last."""
    held: Counter[int] = Counter()
    for op in ops:
        yield op
        if isinstance(op, HalfFma):
            held[op.place] += 1
            if held[op.place] == HALF_CHUNK:
                del held[op.place]
                yield Flush(op.place)
    yield from (Flush(place) for place in sorted(held))


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
    """Each non-zero once, each product after the Load of its column, places within the budget,
    float16 sums of at most ``HALF_CHUNK`` products of weights that fit, none left unflushed."""
    expected = deque(
        zip(entries.columns.tolist(), entries.places.tolist(), entries.values.tolist(), strict=True)
    )
    holds: dict[int, int] = {}
    held: Counter[int] = Counter()
    for op in body:
        match op:
            case Load(slot, k):
                holds[slot] = k
            case Flush(place):
                held.pop(place, None)
            case Fma(place, slot, weight) | HalfFma(place, slot, weight):
                want = expected.popleft() if expected else None
                got = (holds.get(slot), place, weight)
                if want is None or got[:2] != want[:2] or not _same(got[2], want[2]):
                    raise BuildError(f"program computes {got}, the weight has {want} there")
                if not 0 <= place < block_m:
                    raise BuildError(f"place {place} is outside the {block_m} accumulators")
                if isinstance(op, HalfFma):
                    held[place] += 1
                    if held[place] > HALF_CHUNK or not fits_half(weight):
                        raise BuildError(f"product {got} is not one for float16 sums")
    if held:
        raise BuildError(f"program leaves float16 sums unflushed, of places {sorted(held)}")
    if expected:
        raise BuildError(f"program leaves out {len(expected)} non-zeros, first {expected[0]}")


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
