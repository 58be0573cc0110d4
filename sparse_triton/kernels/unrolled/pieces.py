"""A long program in pieces: kernels of some row blocks each, launched one after the other.

The assembler takes a time that grows faster than its text, on one core. Pieces are assembled side
by side. A piece begins as soon as all programs of the piece before have begun (dependent launch),
so that multiprocessors do not wait for the last program of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparse_triton.build import KernelSource, TritonKernel, compile_kernel
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.kernel import source_of
from sparse_triton.kernels.unrolled.schedule import Program, unrolled_program

LONGEST_PIECE = 30_000  # products: some four seconds of assembling


@dataclass(frozen=True, eq=False)
class Pieces:
    """One launch a piece; each row block is one piece's."""

    parts: tuple[TritonKernel, ...]

    def bind(self, device: torch.device) -> Run:
        runs = [part.bind(device) for part in self.parts]

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            for one in runs:
                one(X, Y, bias, residual)

        return run


def build(plan: Plan) -> Kernel:
    """The plan's kernel, or its pieces, compiled on as many cores as there are."""
    sources = piece_sources(plan)
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as threads:
        parts = tuple(threads.map(lambda source: compile_kernel(source, plan.device.arch), sources))
    return parts[0] if len(parts) == 1 else Pieces(parts)


def piece_sources(plan: Plan) -> list[KernelSource]:
    """A source for each piece, in the order of their launches."""
    pieces = list(cut(unrolled_program(plan), plan))
    if len(pieces) == 1:
        return [source_of(plan, pieces[0])]
    return [source_of(plan, piece, "later" if i else "first") for i, piece in enumerate(pieces)]


def cut(program: Program, plan: Plan) -> Iterator[Program]:
    """Whole stacks of row blocks, as few pieces as are no longer than ``LONGEST_PIECE``."""
    stack, bodies = plan.config.stack, program.parts * program.chunks
    products = plan.problem.nnz * plan.config.vector
    stacks = len(program.rows) // stack
    pieces = min(stacks, -(-products // LONGEST_PIECE))
    cuts = np.arange(pieces + 1) * stacks // pieces * stack
    for first, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        yield replace(
            program,
            rows=program.rows[first:end],
            bodies=program.bodies[first * bodies : end * bodies],
        )
