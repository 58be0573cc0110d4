"""How anything here is timed: verified elsewhere, warm, CUDA graphs on a GPU, in microseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

LAUNCHES_PER_GRAPH = 20


@dataclass(frozen=True)
class Time:
    """Median with 20 and 80 % quantiles, µs."""

    median_us: float
    low_us: float
    high_us: float


def of_samples(samples: list[float]) -> Time:
    if len(samples) < 2:
        return Time(samples[0], samples[0], samples[0])
    low, high = statistics.quantiles(samples, n=5)[0], statistics.quantiles(samples, n=5)[-1]
    return Time(statistics.median(samples), low, high)


def gpu_time(call: Callable[[], object], repeats: int = 25) -> Time:
    """One call, from replays of a graph of ``LAUNCHES_PER_GRAPH`` calls; inputs stay warm in L2."""
    graph = capture(call, LAUNCHES_PER_GRAPH)
    for _ in range(3):
        graph.replay()
    return of_samples([_replay_us(graph) / LAUNCHES_PER_GRAPH for _ in range(repeats)])


def gpu_times(calls: list[Callable[[], object]], repeats: int = 25) -> list[Time]:
    """Several calls measured interleaved, so that a drifting clock is fair to all."""
    graphs = [capture(call, LAUNCHES_PER_GRAPH) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    for i in range(repeats + 2):
        for graph, out in zip(graphs, samples, strict=True):
            us = _replay_us(graph) / LAUNCHES_PER_GRAPH
            if i >= 2:
                out.append(us)
    return [of_samples(s) for s in samples]


def capture(call: Callable[[], object], launches: int) -> torch.cuda.CUDAGraph:
    """A graph of ``launches`` calls, after one warm call on a side stream as capture demands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            call()
    return graph


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop) * 1e3)


def host_time(call: Callable[[], object], calls: int = 2000, repeats: int = 7) -> Time:
    """Host time of one eager call: the queue never fills, the device is drained between repeats."""
    samples = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        done = 0
        elapsed = 0.0
        while done < calls:
            start = time.perf_counter()
            for _ in range(200):
                call()
            elapsed += time.perf_counter() - start
            torch.cuda.synchronize()
            done += 200
        samples.append(elapsed / done * 1e6)
    return of_samples(samples)
