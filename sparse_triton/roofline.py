"""The least time a problem can take on a device, from its flop and bytes. An estimate, no promise.

Source: Williams, Waterman, Patterson, Roofline, CACM 2009.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from sparse_triton.problem import ConvProblem, Problem

LANES_PER_CORE = 128  # float32 FMA lanes of one multiprocessor, compute capability 8.6 or newer
TF32_SPEED = 8  # of TF32 tensor cores, times that of the lanes
LAUNCH_US = 1.25  # an empty kernel inside a CUDA graph
GPU_GHZ, GPU_BYTES_PER_US = 1.7, 2_000_000.0  # where the driver does not tell
CPU_GHZ = 3.0
CPU_FLOP_PER_CYCLE = 32  # two 8-wide FMA
CPU_BYTES_PER_US = 10_000.0  # one core's share of memory bandwidth, 10 GB/s


@dataclass(frozen=True)
class Peak:
    """What a device could do at best: float32 flop and bytes per microsecond, and the launch."""

    flop_per_us: float
    bytes_per_us: float
    launch_us: float
    assumed: bool  # True: typical figures, nothing was asked of the hardware

    def __str__(self) -> str:
        kind = "assumed" if self.assumed else "from the driver's clock and bus figures"
        return (
            f"{self.flop_per_us / 1e6:.2f} TFLOP/s float32, {self.bytes_per_us / 1e3:.0f} GB/s, "
            f"{self.launch_us:g} us a launch ({kind})"
        )


@functools.cache
def peak_of(device: torch.device) -> Peak:
    """The peak of the device, asked once."""
    if device.type != "cuda":
        cores = torch.get_num_threads()
        flop = cores * CPU_GHZ * 1e3 * CPU_FLOP_PER_CYCLE
        return Peak(flop, cores * CPU_BYTES_PER_US, 0.0, assumed=True)
    p: Any = torch.cuda.get_device_properties(device)
    clocks = getattr(p, "clock_rate", 0), getattr(p, "memory_clock_rate", 0)  # kHz
    known = all(clocks)
    cycles_per_us = clocks[0] / 1e3 if known else GPU_GHZ * 1e3
    flop = p.multi_processor_count * LANES_PER_CORE * 2 * cycles_per_us
    memory = 2 * clocks[1] / 1e3 * p.memory_bus_width / 8 if known else GPU_BYTES_PER_US
    return Peak(flop, memory, LAUNCH_US, assumed=not known)


def at_best_us(problem: Problem, kernel: str, peak: Peak) -> float:
    """Microseconds that neither arithmetic nor memory traffic can be faster than, float32 units.

    "dense" multiplies the zeros too and reads the whole weight; "tf32x3" does it three times, on
    tensor cores, and reads two halves; "pairs" does a third of that and reads half of one;
    "unrolled" fetches 16 bytes of code per non-zero instead of the weight; the others read values
    and columns.
    """
    flop, traffic = problem.flop, problem.min_bytes
    w_itemsize = 4 if problem.w_dtype == "float32" else 2
    packed = problem.nnz * (w_itemsize + 2)
    if kernel in ("dense", "tf32x3", "pairs"):
        groups = problem.groups if isinstance(problem, ConvProblem) else 1
        elements = problem.M * problem.K // groups
        flop = 2 * elements * problem.N * problem.batch
        if kernel == "tf32x3":
            flop, w_itemsize = 3 * flop // TF32_SPEED, 2 * w_itemsize
        elif kernel == "pairs":
            flop, w_itemsize = flop // TF32_SPEED, w_itemsize // 2
        traffic += elements * w_itemsize - packed
    elif kernel == "unrolled":
        traffic += problem.nnz * 16 - packed
    return peak.launch_us + max(flop / peak.flop_per_us, traffic / peak.bytes_per_us)
