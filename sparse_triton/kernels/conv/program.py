"""An unrolled convolution: the bodies of every row block and chunk of channels, and their PTX.

The instructions are those of the unrolled product (``kernels/unrolled/ops.py``), scheduled and
verified by the same code; only a load reads the staged tile, at an immediate offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sparse_triton.kernels.columns import UID, Asm, Operands, float32
from sparse_triton.kernels.conv.shape import Shape, unrolled_shape
from sparse_triton.kernels.conv.tile import cells_of
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.ops import Fma, Load, Op
from sparse_triton.kernels.unrolled.schedule import Order, Program, schedule_body, verify
from sparse_triton.kernels.unrolled.turns import jump, turns
from sparse_triton.partition import Entries, block_entries, group_entries, partition_rows

if TYPE_CHECKING:
    from sparse_triton.problem import ConvProblem


def conv_programs(plan: Plan[ConvProblem]) -> list[Program]:
    """One program for each chunk that a program stages; its bodies are numbered
    ``(block * K_blocks + rank) * Gy + group``; with several starts, each is so many pieces of
    code. A load's ``k`` is a cell of the tile."""
    config, shape = plan.config, unrolled_shape(plan.problem, plan.config)
    order = Order(prefetch=config.prefetch, row_bytes=0, widen=False)
    rows = partition_rows(plan.csr, shape.block_m, config.row_blocks).rows
    cells, chunks = cells_of(plan.problem, shape.tile), shape.tile.chunks
    bodies: list[list[tuple[Op, ...]]] = [[] for _ in range(chunks)]
    for block in rows:
        entries = block_entries(plan.csr, block)
        chunk = cells.chunk[entries.columns]
        for number in range(shape.K_blocks * chunks):
            mine = np.flatnonzero(chunk == number)
            part = Entries(entries.columns[mine], entries.places[mine], entries.values[mine])
            for group in group_entries(part, shape.Gy * shape.pieces):
                staged = replace(group, columns=cells.cell[group.columns])
                body = schedule_body(staged, order)
                verify(body, staged, shape.block_m)
                bodies[number % chunks].append(body)
    return [Program(rows, shape.Gy, tuple(b), shape.pieces) for b in bodies]


def emit_program(program: Program, shape: Shape) -> Asm:
    """Inputs, in order: body number, shared address of this lane's first point, where this thread
    starts, the sums so far by slot. Outputs: the sums."""
    operands = Operands()
    sums = [operands.new("=&f") for _ in range(shape.sums)]
    body, tile, start = (operands.new("r") for _ in range(3))
    for i in range(len(sums)):
        operands.new(str(i))  # the sums so far lie where the outputs will
    loads = (op.slot for ops in program.bodies for op in ops if isinstance(op, Load))
    slots = 1 + max(loads, default=0)
    labels = [f"B{i}{UID}" for i in range(len(program.bodies))]
    in_turns = turns(body, start, shape.starts, shape.pieces, labels)
    lines = [
        *(f".reg .f32 x{n}_<{slots}>;" for n in range(shape.repeat)),
        *(in_turns if shape.starts > 1 else jump(body, labels)),
        *(
            line
            for i, ops in enumerate(program.bodies)
            for line in _body(i, ops, shape, tile, sums)
        ),
        f"DONE{UID}:",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _body(
    index: int, ops: tuple[Op, ...], shape: Shape, tile: str, sums: list[str]
) -> Iterator[str]:
    repeat, step_bytes = shape.repeat, shape.tile.step * 4
    yield f"B{index}{UID}:"
    for op in ops:
        match op:
            case Load(slot, cell):
                for n in range(repeat):
                    yield f"ld.shared.f32 x{n}_{slot}, [{tile}+{cell * 4 + n * step_bytes}];"
            case Fma(place, slot, weight):
                for n in range(repeat):
                    acc = sums[place * repeat + n]
                    yield f"fma.rn.f32 {acc}, x{n}_{slot}, {float32(weight)}, {acc};"
    yield f"bra.uni {'NEXT' if shape.starts > 1 else 'DONE'}{UID};"
