"""Which kernels one forward pass launches, and how long each runs: where a network's time goes."""

from __future__ import annotations

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
    """Name and µs of each kernel and copy of one replay, in the order in which they start.

    The call is captured in a CUDA graph. A kernel under dependent launch starts early and waits for
    the one before: its time holds that wait, so the sum is more than the pass takes.
    """
    timer = GraphTimer(call)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(REPLAYS):
            timer.graph.replay()
        torch.cuda.synchronize()
    events = [e for e in seen.events() or [] if e.device_type == DeviceType.CUDA]
    events.sort(key=lambda e: e.time_range.start)
    one_pass = len(events) // (REPLAYS * timer.launches)
    last = events[len(events) - one_pass :]
    return [{"kernel": e.name, "us": round(e.time_range.elapsed_us(), 2)} for e in last]


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
