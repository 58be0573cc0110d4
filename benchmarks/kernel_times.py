"""Which kernels one forward pass launches, and how long each runs: where a network's time goes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from autotune.timing import GraphTimer

REPLAYS = 3
Kernels = list[dict[str, Any]]


def kernel_times(call: Callable[[], Any]) -> Kernels:
    """Name and µs of each kernel and copy of one pass in a CUDA graph, in the order of their ends.

    A kernel's time is from the end of the one before to its own: kernels under dependent launch
    start early and wait, so that their own times overlap. The times add up to the pass.
    """
    timer = GraphTimer(call)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        for _ in range(REPLAYS):
            timer.graph.replay()
        torch.cuda.synchronize()
    events = [e for e in seen.events() or [] if e.device_type == DeviceType.CUDA]
    events.sort(key=lambda e: e.time_range.end)
    one_pass = len(events) // (REPLAYS * timer.launches)
    last = events[-one_pass - 1 :]
    return [
        {"kernel": e.name, "us": round(e.time_range.end - before.time_range.end, 2)}
        for before, e in itertools.pairwise(last)
    ]


def by_name(kernels: Kernels) -> list[tuple[str, int, float]]:
    """(name, launches, µs in all), the longest first."""
    times = defaultdict(list)
    for kernel in kernels:
        times[kernel["kernel"]].append(kernel["us"])
    found = [(name, len(us), sum(us)) for name, us in times.items()]
    return sorted(found, key=lambda entry: -entry[2])


def table(kernels: Kernels, most: int = 16) -> str:
    """Markdown: the longest ``most`` kernels by name."""
    lines = ["| kernel | launches | µs |", "| --- | --- | --- |"]
    for name, launches, us in by_name(kernels)[:most]:
        lines.append(f"| {name[:90].replace('|', ' ')} | {launches} | {us:.1f} |")
    total = sum(kernel["us"] for kernel in kernels)
    return "\n".join([*lines, f"| all | {len(kernels)} | {total:.1f} |"])
