"""Two or more calls timed against each other on whatever device they run on."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

CallOnce = Callable[[], object]
LAUNCHES_PER_GRAPH = 20
GPU_REPEATS = 25
CPU_SECONDS = 1.5  # for all calls together: quiet moments are rare on a busy machine
CPU_MIN_ROUNDS = 7


def interleaved_us(calls: Sequence[CallOnce], device: torch.device) -> list[float]:
    """Microseconds of one call each, measured in turns so that a drifting clock is fair to all.

    On a GPU: median over replays of CUDA graphs, so that host time does not count. On a CPU: the
    minimum, since everything else on the machine only ever adds.
    """
    return _gpu(calls) if device.type == "cuda" else _cpu(calls)


def disturbance(device: torch.device) -> str | None:
    """A warning where other work shared the CPU in the last minute, else None."""
    if device.type == "cuda" or not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], torch.get_num_threads()
    if load <= cores + 0.5:  # this process alone reaches ``cores``
        return None
    return f"load average {load:.1f} on {cores} threads: other work disturbed these times"


def _cpu(calls: Sequence[CallOnce]) -> list[float]:
    best = [float("inf")] * len(calls)
    stop = time.perf_counter() + CPU_SECONDS
    rounds = 0
    while rounds < CPU_MIN_ROUNDS or time.perf_counter() < stop:
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], (time.perf_counter() - start) * 1e6)
        rounds += 1
    return best


def _gpu(calls: Sequence[CallOnce]) -> list[float]:
    graphs = [_captured(call) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(GPU_REPEATS):
        for graph, times in zip(graphs, samples, strict=True):
            times.append(_replay_us(graph) / LAUNCHES_PER_GRAPH)
    return [statistics.median(times) for times in samples]


def _captured(call: CallOnce) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries want a warm call on a side stream
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES_PER_GRAPH):
            call()
    graph.replay()
    return graph


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e3
