"""Partials of all groups of all programs of a cluster become sums, in order of program and group.

Every thread sends its partials to the program that finishes them, [slot][part][lane], each with its
bytes to a barrier there (``st.async``): nobody waits for memory in general, a program only for what
it adds up. Within one program a partial is a store, and the barrier that of the program.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID, Asm, Operands
from sparse_triton.kernels.conv.shape import Shape
from sparse_triton.kernels.conv.tile import ANCHOR_BYTES
from sparse_triton.kernels.exchange import (
    before_first_store,
    begin,
    load,
    of_program,
    store,
)


def emit_window(shape: Shape) -> Asm:
    """Input: number in the program of this thread. Output: where its shared memory begins, behind
    the declared bytes. In those a cluster's program has its barrier, set up here."""
    operands = Operands()
    window, thread = operands.new("=&r"), operands.new("r")
    lines = [
        f".shared .align 16 .b8 anchor[{ANCHOR_BYTES}];",
        ".reg .pred first;",
        f"mov.u32 {window}, anchor;",
    ]
    if shape.K_blocks > 1:
        lines += [
            f"setp.eq.u32 first, {thread}, 0;",
            f"@first mbarrier.init.shared::cta.b64 [{window}], 1;",
            "@first fence.mbarrier_init.release.cluster;",
            f"@first mbarrier.arrive.expect_tx.shared::cta.b64 _, [{window}], "
            f"{shape.exchange_bytes};",
            *begin(shape.K_blocks),
        ]
    lines.append(f"add.u32 {window}, {window}, {ANCHOR_BYTES};")
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def emit_exchange(shape: Shape) -> Asm:
    """Inputs, in order: shared address of the program's window, number in the program of this
    thread, rank of the program in the cluster, the sums of this thread. Outputs: ``held`` finished
    sums, slots ``row_group * held ...``."""
    operands = Operands()
    outputs = [operands.new("=&f") for _ in range(shape.held)]
    window, thread, rank = (operands.new("r") for _ in range(3))
    sums = [operands.new("f") for _ in range(shape.sums)]
    lines = [
        ".reg .b32 lane, group, row, o, at, to, bar, owner;",
        ".reg .f32 other;",
        ".reg .pred done;",
        f"and.b32 lane, {thread}, {shape.lanes - 1};",
        f"shr.u32 row, {thread}, {shape.lanes.bit_length() - 1};",
        *before_first_store(shape.K_blocks),
        *(() if shape.K_blocks > 1 else ("bar.sync 0;",)),  # the tile lies in the same memory
        *_send(shape, window, rank, sums),
        *_arrived(shape, window),
        *_add(shape, window, outputs),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _send(shape: Shape, window: str, rank: str, sums: list[str]) -> Iterator[str]:
    """A thread's sums are the slots of its places, one after the other; its first is number
    ``place * sums`` of the row block."""
    groups_of_rows = shape.row_groups // shape.Gy  # a power of two
    part_bytes, slot_bytes = shape.lanes * 4, shape.parts * shape.lanes * 4
    together = min(shape.sums, shape.slots)  # slots that one program finishes
    yield f"shr.u32 group, row, {groups_of_rows.bit_length() - 1};"
    yield f"mad.lo.u32 at, {rank}, {shape.Gy}, group;"
    yield f"mul.lo.u32 at, at, {part_bytes};"
    yield "mad.lo.u32 at, lane, 4, at;"
    yield f"add.u32 at, at, {window};"
    yield f"and.b32 o, row, {groups_of_rows - 1};"
    yield f"mul.lo.u32 o, o, {shape.sums};"
    yield f"shr.u32 owner, o, {shape.slots.bit_length() - 1};"
    if together < shape.slots:  # several threads for a program: powers of two
        yield f"and.b32 o, o, {shape.slots - 1};"
        yield f"mad.lo.u32 at, o, {slot_bytes}, at;"
    for first in range(0, shape.sums, together):
        if first:
            yield "add.u32 owner, owner, 1;"
        yield from of_program("to", "at", "owner", shape.K_blocks)
        if shape.K_blocks > 1:
            yield f"sub.u32 o, {window}, {ANCHOR_BYTES};"
            yield from of_program("bar", "o", "owner", shape.K_blocks)
        for i, value in enumerate(sums[first : first + together]):
            address = f"to+{shape.partials_from + i * slot_bytes}"
            if shape.K_blocks > 1:
                yield (
                    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 "
                    f"[{address}], {value}, [bar];"
                )
            else:
                yield store(address, [value], 1)


def _arrived(shape: Shape, window: str) -> Iterator[str]:
    """All partials that this program adds up are there."""
    if shape.K_blocks == 1:
        yield "bar.sync 0;"
        return
    yield f"WAIT{UID}:"
    yield (
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, "
        f"[{window}+{-ANCHOR_BYTES}], 0;"
    )
    yield f"@!done bra WAIT{UID};"


def _add(shape: Shape, window: str, outputs: list[str]) -> Iterator[str]:
    part_bytes, slot_bytes = shape.lanes * 4, shape.parts * shape.lanes * 4
    yield f"mul.lo.u32 o, row, {shape.held};"
    if shape.slots < shape.row_groups:  # threads with nothing to finish read what others do
        yield f"min.u32 o, o, {shape.slots - shape.held};"
    yield f"mad.lo.u32 o, o, {slot_bytes}, {window};"
    yield "mad.lo.u32 o, lane, 4, o;"
    for i, out in enumerate(outputs):
        for part in range(shape.parts):
            address = f"o+{shape.partials_from + i * slot_bytes + part * part_bytes}"
            yield load([out if part == 0 else "other"], address)
            if part:
                yield f"add.rn.f32 {out}, {out}, other;"
