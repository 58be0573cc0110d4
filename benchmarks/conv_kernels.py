"""Kernels of the measured convolutions, compiled by other processes while the first are timed."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from autotune.parcel import pack, unpack
from benchmarks.conv_problems import ConvLayer
from sparse_triton import SparseFilter
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import ConvProblem

Launch = Callable[[ConvCall, torch.Tensor | None], torch.Tensor]
LONG_PROGRAM = 10_000  # non-zeros


class Job(NamedTuple):
    layer: ConvLayer
    problem: ConvProblem
    config: KernelConfig

    @property
    def compiled(self) -> bool:
        return CONV_FAMILIES[self.config.kernel].device_kind == "cuda"

    @property
    def long(self) -> bool:
        """Whether it takes seconds: better begun early."""
        return self.config.kernel == "unrolled" and self.problem.nnz > LONG_PROGRAM


class Kernels:
    """A context: compiles jobs on all cores but one, the long ones first, then in order."""

    def __init__(self, jobs: Iterable[Job], device: Device) -> None:
        self.device = device
        self.jobs = sorted({j: None for j in jobs if j.compiled}, key=lambda j: not j.long)
        self.built: dict[Job, Future[Path]] = {}

    def __enter__(self) -> Kernels:
        self.folder = tempfile.TemporaryDirectory(prefix="sparse-triton-")
        spawn = multiprocessing.get_context("spawn")
        workers = max(1, (os.cpu_count() or 1) - 1)
        self.pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_one_thread)
        for i, job in enumerate(self.jobs):
            path = Path(self.folder.name) / str(i)
            self.built[job] = self.pool.submit(_build, job, self.device, path)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.folder.cleanup()

    def launch(self, job: Job, W: SparseFilter, call: ConvCall) -> Launch:
        """What runs the call, once it is compiled. Raises what compiling it raised."""
        if not job.compiled:
            return prepare(W.matrix, call, job.config)
        kernel = unpack(self.built[job].result())
        return call.launcher(kernel.bind(call.X.device), W.matrix.shape[0])


def _one_thread() -> None:
    torch.set_num_threads(1)


def _build(job: Job, device: Device, path: Path) -> Path:
    plan = plan_spmm(job.problem, job.config, job.layer.load().matrix.csr, device)
    pack(plan.family.build(plan), path)
    return path
