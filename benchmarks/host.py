"""Host time of one eager call: a 3 µs kernel behind 40 µs of Python would be a slow library."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.problems import drawn
from sparse_triton import spmm

CALLS, REPEATS, BURST = 4000, 9, 200


def run(device: torch.device) -> dict[str, Any]:
    """Median µs of ``spmm`` and ``torch.mm``, with and without ``out=``, and their ratios.

    The GPU's queue never fills: bursts of 200 calls, the device drained in between.
    """
    M, N = (512, 256) if device.type == "cuda" else (16, 4)  # a CPU's products are host time too
    W = drawn(M, M, 0.9, seed=0).to(device)
    dense, X = W.to_dense(), torch.randn(M, N, device=device)
    out = torch.empty(M, N, device=device)
    calls: dict[str, Callable[[], object]] = {
        "spmm": lambda: spmm(W, X),
        "mm": lambda: torch.mm(dense, X),
        "spmm_out": lambda: spmm(W, X, out=out),
        "mm_out": lambda: torch.mm(dense, X, out=out),
        "empty": lambda: torch.empty(M, N, device=device),
    }
    with torch.no_grad():
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, call in calls.items():
                samples[name].append(_host_us(call, device))
    us: dict[str, Any] = {name: round(statistics.median(s), 2) for name, s in samples.items()}
    us["spmm_over_mm"] = round(us["spmm"] / us["mm"], 3)
    us["spmm_out_over_mm_out"] = round(us["spmm_out"] / us["mm_out"], 3)
    return us


def _host_us(call: Callable[[], object], device: torch.device) -> float:
    elapsed, drain = 0.0, torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    call()
    for _ in range(CALLS // BURST):
        drain()
        start = time.perf_counter()
        for _ in range(BURST):
            call()
        elapsed += time.perf_counter() - start
    return elapsed / CALLS * 1e6


def table(us: dict[str, Any]) -> str:
    return (
        "| | host µs a call |\n| --- | --- |\n"
        f"| torch.mm | {us['mm']} |\n| spmm | {us['spmm']} ({us['spmm_over_mm']} ×) |\n"
        f"| torch.mm(out=) | {us['mm_out']} |\n"
        f"| spmm(out=) | {us['spmm_out']} ({us['spmm_out_over_mm_out']} ×) |"
    )
