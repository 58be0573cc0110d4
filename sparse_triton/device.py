"""What the device at hand can do. Asked lazily: importing this touches no GPU."""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_triton.errors import CaptureError


@dataclass(frozen=True)
class Device:
    """The facts that kernels, configurations and the store depend on.

    kind          ``"cuda"`` or ``"cpu"``
    name          marketing name, e.g. ``"NVIDIA H100 80GB HBM3"``
    arch          compute capability as one number (90 for sm_90); 0 on a CPU
    cores         multiprocessors, or worker threads on a CPU
    registers     32-bit registers of one multiprocessor
    shared_bytes  shared memory one program may use
    l2_bytes      the L2 cache, of a GPU
    """

    kind: str
    name: str
    arch: int
    cores: int
    registers: int = 65536
    shared_bytes: int = 99 * 1024
    l2_bytes: int = 50 * 2**20

    @property
    def slug(self) -> str:
        """The name as a folder: lower case letters, digits and dashes."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @staticmethod
    def of(device: torch.device) -> Device:
        """The device a tensor lives on."""
        if device.type == "cuda":
            return _cuda(torch.cuda.current_device() if device.index is None else device.index)
        return _cpu(torch.get_num_threads())

    @staticmethod
    def virtual_cuda(arch: int) -> Device:
        """A GPU that need not be there: compiling and planning ask nothing of the driver."""
        return Device("cuda", f"sm_{arch}", arch, cores=132)


@functools.cache
def _cuda(index: int) -> Device:
    p: Any = torch.cuda.get_device_properties(index)  # the stub lacks some fields
    return Device(
        kind="cuda",
        name=p.name,
        arch=10 * p.major + p.minor,
        cores=p.multi_processor_count,
        registers=p.regs_per_multiprocessor,
        shared_bytes=p.shared_memory_per_block_optin,
        l2_bytes=p.L2_cache_size,
    )


@functools.cache
def _cpu(threads: int) -> Device:
    return Device(kind="cpu", name=f"{_cpu_name()} x{threads}", arch=0, cores=threads)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine() or "cpu"


def refuse_capture(device: torch.device, what: str) -> None:
    """Raise ``CaptureError`` inside a CUDA graph capture: ``what`` has to happen before one."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise CaptureError(
            f"{what}, and nothing may be analysed, planned or compiled inside a CUDA graph "
            "capture; run the same call once before capturing (see autotune.warmup)"
        )


def environment(device: Device) -> dict[str, str]:
    """Versions a measurement depends on, for tables, stores and bug reports."""
    import numba
    import numpy

    from sparse_triton import __version__

    env = {
        "device": device.name,
        "sparse_triton": __version__,
        "torch": torch.__version__,
        "triton": triton_version(),
        "numba": numba.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cpus": str(os.cpu_count()),
    }
    if device.kind == "cuda":
        env["cuda"] = str(torch.version.cuda)
        env["driver"] = driver_version()
    return env


@functools.cache
def triton_version() -> str:
    """Triton's version, or ``"none"`` where it is not installed."""
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)


@functools.cache
def driver_version() -> str:
    """The kernel driver's version as the system reports it, or ``"unknown"``."""
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)\s", version.read_text()) if version.exists() else None
    return found.group(1) if found else "unknown"
