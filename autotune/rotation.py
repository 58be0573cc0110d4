"""Weights that come from memory: several copies in turn, together larger than any cache.

A layer of a language model is met again only after all the others have passed through the caches.
Timed with one copy of its weight, which stays in L2, it would look several times faster than it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sparse_triton.build import TritonKernel
from sparse_triton.heuristics import bound_by_weight
from sparse_triton.kernel import Kernel, Run
from sparse_triton.problem import Problem, SpmmProblem

ROTATED_BYTES = 160 << 20  # more than three times the L2 cache of an H100
Call = Callable[[], object]


def bound(kernel: Kernel, problem: Problem, device: torch.device) -> Run:
    """``kernel.bind(device)``; for a product that is bound by reading its weight, one that takes
    another copy of the weight each time."""
    if device.type != "cuda" or not isinstance(problem, SpmmProblem):
        return kernel.bind(device)
    if not bound_by_weight(problem):
        return kernel.bind(device)
    runs = itertools.cycle(bound_copies(kernel, problem, device)[0])

    def run(*operands: Any) -> None:
        next(runs)(*operands)

    return run


def bound_copies(
    kernel: Kernel, problem: SpmmProblem, device: torch.device
) -> tuple[list[Run], int]:
    """The kernel bound to its own copy of the weight each time, and the bytes of one."""
    nbytes = weight_bytes(kernel, problem)
    if not isinstance(kernel, TritonKernel):
        return [kernel.bind(device) for _ in range(copies_of(nbytes))], nbytes
    source = kernel.source
    runs = []
    for _ in range(copies_of(nbytes)):
        arrays = {name: a.copy() for name, a in source.arrays.items()}
        runs.append(TritonKernel(replace(source, arrays=arrays), kernel.compiled).bind(device))
    return runs, nbytes


def weight_bytes(kernel: Kernel, problem: SpmmProblem) -> int:
    """Bytes of the weight as the kernel keeps it."""
    if isinstance(kernel, TritonKernel):
        return sum(a.nbytes for a in kernel.source.arrays.values())
    return problem.M * problem.K * (4 if problem.w_dtype == "float32" else 2)


def copies_of(nbytes: int) -> int:
    """How many copies it takes; at least two."""
    return max(2, -(-ROTATED_BYTES // max(1, nbytes)))


def in_turn(calls: Sequence[Call]) -> Call:
    """A call that runs the next one each time."""
    endless = itertools.cycle(calls)
    return lambda: next(endless)()
