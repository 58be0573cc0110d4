"""The child process that compiles: jobs in through a pipe, parcels out through files.

Started by ``compile_pool.Worker`` with the descriptor of the pipe. A compiler that ends the process
ends this one only.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.pattern import CSR
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Problem


@dataclass(frozen=True)
class Job:
    """One configuration to compile; ``csr`` names the ``.npz`` of the weight."""

    number: int
    csr: Path
    problem: Problem
    config: KernelConfig
    device: Device
    parcel: Path


@dataclass(frozen=True)
class Built:
    """What became of a job: ``why`` is empty where it compiled.

    peak_bytes  most memory its process has held so far, this job or an earlier one
    """

    number: int
    why: str
    seconds: float
    timed_out: bool = False
    peak_bytes: int = 0


def save_csr(csr: CSR, path: Path) -> None:
    np.savez(
        path,
        shape=np.asarray(csr.shape, dtype=np.int64),
        row_offsets=csr.row_offsets,
        column_indices=csr.column_indices,
        values=csr.values,
    )


@functools.lru_cache(maxsize=2)
def load_csr(path: Path) -> CSR:
    with np.load(path, allow_pickle=False) as z:
        M, K = (int(n) for n in z["shape"])
        return CSR((M, K), z["row_offsets"], z["column_indices"], z["values"])


def build(job: Job) -> Built:
    """Compile one job. Whatever the compiler raises is the job's result, not the worker's end.

    A kernel that cannot travel is no failure: it is in Triton's cache for the parent to find.
    """
    from autotune.parcel import pack

    start = time.perf_counter()
    why = ""
    try:
        plan = plan_spmm(job.problem, job.config, load_csr(job.csr), job.device)
        kernel = plan.family.build(plan)
        with contextlib.suppress(pickle.PicklingError, TypeError, AttributeError):
            pack(kernel, job.parcel)
    except Exception as e:
        why = f"{type(e).__name__}: {e}"[:1000]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux
    return Built(job.number, why, time.perf_counter() - start, peak_bytes=peak)


def main(fd: int) -> None:
    with Connection(fd) as pipe:
        pipe.send("ready")
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            pipe.send(build(job))
