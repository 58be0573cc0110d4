"""Which of X and Y may leave the L2 cache before everything else.

A product of many columns moves X and Y once. Where they do not fit the cache side by side, each
pushes out lines of the other: X that is about to be read, or Y that the next kernel reads.
"""

from __future__ import annotations

from typing import Literal

from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem

Streamed = Literal["x", "y", "none"]

FIRST_ARCH_WITH_POLICIES = 80


def streamed(problem: SpmmProblem, device: Device, read_at_once: bool) -> Streamed:
    """Y where it does not fit, so that it costs no line of X; X where it is not needed again and Y
    fits, so that the next kernel finds Y.

    What fits is half of the cache: each half keeps a copy of a line that both read.

    read_at_once  whether all programs that read a line of X run at about the same time
    """
    if device.arch < FIRST_ARCH_WITH_POLICIES:
        return "none"
    elements = problem.N * problem.batch * problem.x_itemsize
    x_bytes, y_bytes = problem.K * elements, problem.M * elements
    fitting = device.l2_bytes // 2
    if y_bytes > fitting:
        return "y"
    if read_at_once and x_bytes >= y_bytes and x_bytes + y_bytes > fitting:
        return "x"
    return "none"
