"""Partials of all groups of all programs of a cluster become sums, in order of program and group.

Every program writes its partials to its own shared memory, [slot][group][lane]; after a barrier of
the cluster each reads, from all of them, the slots that it finishes.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import Asm, Operands
from sparse_triton.kernels.conv.shape import Shape

CLUSTER_BARRIER = ("barrier.cluster.arrive.aligned;", "barrier.cluster.wait.aligned;")


def emit_exchange(shape: Shape) -> Asm:
    """Inputs, in order: shared address of the partials, number in the program of this thread, rank
    of the program in the cluster, the sums of this thread. Outputs: ``held`` finished sums, slots
    ``row_group * held ...``."""
    operands = Operands()
    outputs = [operands.new("=&f") for _ in range(shape.held)]
    partials, thread, rank = (operands.new("r") for _ in range(3))
    sums = [operands.new("f") for _ in range(shape.sums)]
    barrier = CLUSTER_BARRIER if shape.K_blocks > 1 else ("bar.sync 0;",)
    lines = [
        ".reg .b32 lane, group, row, o, from;",
        ".reg .f32 other;",
        f"and.b32 lane, {thread}, {shape.lanes - 1};",
        f"shr.u32 row, {thread}, {shape.lanes.bit_length() - 1};",
        "bar.sync 0;",  # the tile lies in the same memory
        *_write(shape, partials, sums),
        *barrier,
        *_read(shape, partials, rank, outputs),
        *(CLUSTER_BARRIER if shape.K_blocks > 1 else ()),  # memory that others read must last
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _write(shape: Shape, partials: str, sums: list[str]) -> Iterator[str]:
    """A thread's sums are the slots of its places: one after the other."""
    groups_of_rows = shape.row_groups // shape.Gy  # a power of two
    yield f"shr.u32 group, row, {groups_of_rows.bit_length() - 1};"
    yield f"and.b32 o, row, {groups_of_rows - 1};"
    yield f"mul.lo.u32 o, o, {shape.sums * shape.Gy};"
    yield "add.u32 o, o, group;"
    yield f"mad.lo.u32 o, o, {shape.lanes}, lane;"
    yield f"mad.lo.u32 o, o, 4, {partials};"
    for i, value in enumerate(sums):
        yield f"st.shared.f32 [o+{i * shape.Gy * shape.lanes * 4}], {value};"


def _read(shape: Shape, partials: str, rank: str, outputs: list[str]) -> Iterator[str]:
    slot_bytes = shape.Gy * shape.lanes * 4
    space = "shared::cluster" if shape.K_blocks > 1 else "shared"
    yield f"mul.lo.u32 o, row, {shape.held};"
    if shape.slots < shape.row_groups:  # threads with nothing to finish read what others do
        yield f"min.u32 o, o, {shape.slots - shape.held};"
    yield f"mad.lo.u32 o, {rank}, {shape.slots}, o;"
    yield f"mul.lo.u32 o, o, {slot_bytes};"
    yield "mad.lo.u32 o, lane, 4, o;"
    yield f"add.u32 o, o, {partials};"
    for k in range(shape.K_blocks):
        if shape.K_blocks > 1:
            yield f"mapa.shared::cluster.u32 from, o, {k};"
        else:
            yield "mov.b32 from, o;"
        for i, out in enumerate(outputs):
            for g in range(shape.Gy):
                address = f"[from+{i * slot_bytes + g * shape.lanes * 4}]"
                if k == g == 0:
                    yield f"ld.{space}.f32 {out}, {address};"
                else:
                    yield f"ld.{space}.f32 other, {address};"
                    yield f"add.rn.f32 {out}, {out}, other;"
