"""Timing that can be trusted: warm, repeated, on the device's own clock. All times in microseconds.

GPU  a CUDA graph of up to 20 launches, replayed; median and 20/80 % quantiles; inputs warm in L2
CPU  the minimum of several calls, because everything else only adds
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from sparse_triton.records import Timing

Call = Callable[[], None]
LAUNCHES = 20
GRAPH_US = 4000.0  # long kernels: fewer launches, so that one replay stays below this
SLEEP_CYCLES = 400_000  # about 0.2 ms of head start for the host
CPU_SAMPLE_S = 1e-3  # one sample: the fastest of at least five calls within this
CPU_LIMIT_S = 0.25  # no more repeats of one candidate after this
STAGE_1 = 3
STAGE_2 = {"cuda": 20, "cpu": 9}
ROUNDS = {"cuda": 10, "cpu": 7}  # of the interleaved comparison
STOP_AT = 1.5
DIGITS = 4  # of microseconds: what the store keeps


class Timer(Protocol):
    """Something to be timed, ready to go."""

    def samples(self, repeats: int) -> list[float]:
        """Microseconds of one call, ``repeats`` times."""


class GraphTimer:
    """A captured graph of a call. The call must neither allocate host memory nor synchronise."""

    def __init__(self, call: Call) -> None:
        self.launches = LAUNCHES
        warm = _event_us(call)  # the first call loads modules and library handles
        warm = min(warm, _event_us(call))
        self.launches = max(1, min(LAUNCHES, int(GRAPH_US / max(warm, 1.0))))
        self.graph = _capture(call, self.launches)
        self.graph.replay()
        torch.cuda.synchronize()

    def samples(self, repeats: int) -> list[float]:
        """Replays queued behind a pause, so that a busy host leaves no gap between events."""
        events = [_event_pair() for _ in range(repeats)]
        torch.cuda._sleep(SLEEP_CYCLES)
        self.graph.replay()
        for start, stop in events:
            start.record()
            self.graph.replay()
            stop.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) * 1e3 / self.launches for start, stop in events]


@functools.cache
def _side_stream(device_index: int) -> torch.cuda.Stream:
    """One for all captures: libraries keep a workspace for each stream they see."""
    return torch.cuda.Stream(device_index)


def _capture(call: Call, launches: int) -> torch.cuda.CUDAGraph:
    """``launches`` calls as a graph. ``torch.cuda.graph`` would collect garbage each time."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(_side_stream(torch.cuda.current_device())):
        call()  # some libraries set up a handle for each stream
        torch.cuda.synchronize()
        graph.capture_begin()
        try:
            for _ in range(launches):
                call()
        finally:
            graph.capture_end()
    return graph


def _event_pair() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _event_us(call: Call) -> float:
    start, stop = _event_pair()
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop) * 1e3)


class WallTimer:
    """Calls in a row, by the wall clock."""

    def __init__(self, call: Call) -> None:
        self.call = call
        call()  # compiles, where that is lazy

    def _sample(self) -> float:
        begin = now = time.perf_counter()
        fastest, calls = math.inf, 0
        while calls < 5 or now - begin < CPU_SAMPLE_S:
            start = now
            self.call()
            now = time.perf_counter()
            fastest = min(fastest, now - start)
            calls += 1
        return fastest * 1e6

    def samples(self, repeats: int) -> list[float]:
        start, out = time.perf_counter(), [self._sample()]
        while len(out) < repeats and time.perf_counter() - start < CPU_LIMIT_S:
            out.append(self._sample())
        return out


def timer_for(call: Call, device: torch.device) -> Timer:
    return GraphTimer(call) if device.type == "cuda" else WallTimer(call)


def estimate(samples: list[float], device_kind: str) -> Timing:
    """One timing out of repeats."""
    us = statistics.median(samples) if device_kind == "cuda" else min(samples)
    times = (us, _quantile(samples, 0.2), _quantile(samples, 0.8))
    return Timing(*(max(round(t, DIGITS), 10.0**-DIGITS) for t in times))


def _quantile(samples: list[float], q: float) -> float:
    ordered = sorted(samples)
    return ordered[round(q * (len(ordered) - 1))]


def two_stages(timer: Timer, best_us: float, device_kind: str) -> tuple[Timing, bool]:
    """(timing, stopped): three repeats; the rest only if they are within 1.5 x the best so far."""
    samples = timer.samples(STAGE_1)
    first = estimate(samples, device_kind)
    if first.us > STOP_AT * best_us:
        return first, True
    return estimate(samples + timer.samples(STAGE_2[device_kind]), device_kind), False


def interleaved(timers: list[Timer], device_kind: str) -> list[Timing]:
    """All of them in turn, round after round: a drifting clock is fair to each."""
    samples: list[list[float]] = [[] for _ in timers]
    for _ in range(ROUNDS[device_kind]):
        for timer, out in zip(timers, samples, strict=True):
            out += timer.samples(3 if device_kind == "cuda" else 1)
    return [estimate(s, device_kind) for s in samples]


def faster(a: Timing, b: Timing) -> bool:
    """Whether a beats b beyond noise: its estimate outside b's spread, or its spread below b."""
    return a.us < b.us and (a.us < b.us_low or a.us_high <= b.us)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Library products in the precision their dtype promises, whatever the user has set.

    No TF32 for float32, no 16-bit partial sums: the dense candidate is held to the same error law
    as the others, and it is this dense that "times faster" compares with.
    """
    matmul = torch.backends.cuda.matmul
    names = tuple(f"allow_{t}_reduced_precision_reduction" for t in ("fp16", "bf16"))
    before = [getattr(matmul, name) for name in names]
    give_back_tf32 = _without_tf32()
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    conv_precision = convolution.fp32_precision
    try:
        for name in names:
            setattr(matmul, name, False)
        if conv_precision == "tf32":
            convolution.fp32_precision = "ieee"
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(matmul, name, value)
        if conv_precision == "tf32":
            convolution.fp32_precision = conv_precision
        give_back_tf32()


def _without_tf32() -> Callable[[], None]:
    """Turn TF32 off through the interface the user turned it on with: PyTorch refuses products
    while its older and its newer switch disagree. Returns the way back."""
    matmul = torch.backends.cuda.matmul
    try:
        tf32 = matmul.allow_tf32
    except RuntimeError:  # the newer one was used
        precision = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        return lambda: setattr(matmul, "fp32_precision", precision)
    if not tf32:
        return lambda: None
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(precision)
