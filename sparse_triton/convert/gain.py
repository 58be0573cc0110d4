"""What a sparse layer is expected to gain over the dense call, on the shapes it was seen with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparse_triton.choose import Choice, choose
from sparse_triton.device import Device
from sparse_triton.nn import SparseModule
from sparse_triton.roofline import at_best_us, peak_of


@dataclass(frozen=True)
class Gain:
    """``factor`` times faster than dense. ``measured``: both times stand in the store."""

    factor: float
    measured: bool
    choice: Choice
    columns: str


def expected_gain(
    sparse: SparseModule, seen: list[torch.Tensor], residual: bool, device: torch.device
) -> Gain | None:
    """The gain over all calls that were seen: total dense time over total time."""
    if not seen:
        return None
    facts, peak = Device.of(device), peak_of(device)
    ours = dense = 0.0
    measured = True
    problems = [sparse.problem(X, residual) for X in seen]
    for problem in problems:
        choice = choose(problem, sparse.matrix.pattern_hash, facts)
        if choice.us is not None and choice.dense_us is not None:
            ours, dense = ours + choice.us, dense + choice.dense_us
        else:
            measured = False
            ours += at_best_us(problem, choice.config.kernel, peak)
            dense += at_best_us(problem, "dense", peak)
    columns = ", ".join(sorted({str(problem.N) for problem in problems}))
    return Gain(dense / ours if ours else 1.0, measured, choice, columns)
