"""A long program in pieces: kernels of some row blocks each, launched one after the other.

The assembler takes a time that grows faster than its text, on one core. Pieces are assembled side
by side. A piece begins as soon as all programs of the piece before have begun (dependent launch),
so that multiprocessors do not wait for the last program of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparse_triton.build import KernelSource
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.kernel import source_of
from sparse_triton.kernels.unrolled.limits import LONGEST_PIECE, pieces_of
from sparse_triton.kernels.unrolled.schedule import Program, unrolled_program


def piece_sources(plan: Plan) -> list[KernelSource]:
    """A source for each piece, in the order of their launches."""
    pieces = list(cut(unrolled_program(plan), plan))
    if len(pieces) == 1:
        return [source_of(plan, pieces[0])]
    return [source_of(plan, piece, "later" if i else "first") for i, piece in enumerate(pieces)]


def cut(program: Program, plan: Plan) -> Iterator[Program]:
    """Whole stacks of row blocks, as few pieces as are no longer than ``LONGEST_PIECE``."""
    stack = plan.config.stack
    products = plan.problem.nnz * plan.config.vector
    stacks = len(program.rows) // stack
    pieces = pieces_of(products, stacks, LONGEST_PIECE)
    cuts = np.arange(pieces + 1) * stacks // pieces * stack
    for first, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        yield program.some_blocks(first, end)
