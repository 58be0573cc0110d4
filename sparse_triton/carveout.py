"""How a multiprocessor divides its memory between shared memory and the L1 cache.

A kernel that asks for much shared memory has it divided in its favour, and so it stays for the
kernels after it, which then miss in what is left for the cache. So a kernel that lives off the
cache says how little shared memory it needs.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from triton.compiler import CompiledKernel

from sparse_triton.config import ceil_div

# Of the CUDA driver's CUfunction_attribute.
STATIC_SHARED_BYTES = 1
PREFERRED_CARVEOUT = 9

RESERVED_BYTES = 1024  # of a program, by the driver
REGISTERS, THREADS = 65536, 2048  # of a multiprocessor


def prefer_cache(loaded: CompiledKernel, warps: int, device: torch.device) -> None:
    """Ask for no more shared memory than a multiprocessor full of such programs takes: a hint, to
    the driver, for launches and captures from now on."""
    function = ctypes.c_void_p(loaded.function)
    static = ctypes.c_int()
    _driver().cuFuncGetAttribute(ctypes.byref(static), STATIC_SHARED_BYTES, function)
    program = static.value + loaded.metadata.shared + RESERVED_BYTES
    _driver().cuFuncSetAttribute(
        function, PREFERRED_CARVEOUT, carveout(program, loaded.n_regs, 32 * warps, _shared(device))
    )


def carveout(program_bytes: int, registers: int, threads: int, shared_bytes: int) -> int:
    """Percent of ``shared_bytes`` that as many programs take as threads and registers allow.

    >>> carveout(9216, registers=32, threads=256, shared_bytes=233472)
    32
    """
    programs = max(1, min(THREADS // threads, REGISTERS // (threads * max(1, registers))))
    return min(100, ceil_div(100 * programs * program_bytes, shared_bytes))


def _shared(device: torch.device) -> int:
    properties: Any = torch.cuda.get_device_properties(device)  # the stub lacks the field
    return int(properties.shared_memory_per_multiprocessor)


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
