"""Weights that come from memory: several copies in turn, together larger than any cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sparse_triton.build import TritonKernel
from sparse_triton.kernel import Run
from sparse_triton.plan import Plan

ROTATED_BYTES = 160 << 20  # more than three times the L2 cache of an H100
Call = Callable[[], object]


def copies_of(nbytes: int) -> int:
    """How many copies it takes; at least two."""
    return max(2, -(-ROTATED_BYTES // max(1, nbytes)))


def in_turn(calls: Sequence[Call]) -> Call:
    """A call that runs the next one each time."""
    endless = itertools.cycle(calls)
    return lambda: next(endless)()


def bound_copies(plan: Plan, device: torch.device) -> tuple[list[Run], int]:
    """The plan's kernel bound to its own copy of the weight each time, and the bytes of one."""
    kernel = plan.family.build(plan)
    if not isinstance(kernel, TritonKernel):
        p = plan.problem
        nbytes = p.M * p.K * (4 if p.w_dtype == "float32" else 2)
        return [kernel.bind(device) for _ in range(copies_of(nbytes))], nbytes
    source = kernel.source
    nbytes = sum(a.nbytes for a in source.arrays.values())
    runs = []
    for _ in range(copies_of(nbytes)):
        arrays = {name: a.copy() for name, a in source.arrays.items()}
        runs.append(TritonKernel(replace(source, arrays=arrays), kernel.compiled).bind(device))
    return runs, nbytes
