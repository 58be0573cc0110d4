"""Kernels compiled ahead on all cores, and picked up one by one.

A child process generates and compiles each; the parent loads what arrived and generates nothing, so
that it is ready in a fraction of a second whatever the program took to build.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from tqdm.auto import tqdm

from autotune import parcel
from autotune.compile_pool import CompilePool
from autotune.worker import Built, Job, save_csr
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError
from sparse_triton.executor import Seen
from sparse_triton.kernel import Kernel
from sparse_triton.kernels import families_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Problem

LONGEST_S = 300.0
Key = tuple[str, Problem, KernelConfig]


class Kernels:
    """``order`` what will be run, ``compile`` it all, ``take`` each. A context manager.

    jobs  child processes; None: all cores
    """

    def __init__(self, device: Device, jobs: int | None = None, quiet: bool = False) -> None:
        self.device, self.quiet = device, quiet
        self.pool = CompilePool(jobs or os.cpu_count(), timeout_s=LONGEST_S)
        self.weights: dict[tuple[str, str], Path] = {}
        self.jobs: dict[Key, Job] = {}
        self.built: dict[int, Built] = {}

    def order(self, W: SparseMatrix, problem: Problem, config: KernelConfig) -> None:
        """Have it compiled, once, unless the family compiles nothing."""
        key = (W.weight_id, problem, config)
        if key in self.jobs or not _is_compiled(problem, config):
            return
        number = self.pool.number()
        out = self.pool.folder / f"{number}.parcel"
        self.jobs[key] = Job(number, self._csr(W, problem), problem, config, self.device, out)

    def _csr(self, W: SparseMatrix, problem: Problem) -> Path:
        key = (W.weight_id, problem.w_dtype)
        if key not in self.weights:
            self.weights[key] = self.pool.folder / f"{len(self.weights)}.npz"
            save_csr(W.csr, self.weights[key])
        return self.weights[key]

    def compile(self) -> None:
        """All that was ordered, the longest programs first. Raises ``BuildError`` for a failure."""
        waiting = {job.number: job for job in self.jobs.values()}
        for job in sorted(waiting.values(), key=_length, reverse=True):
            self.pool.submit(job)
        with tqdm(
            total=len(waiting), desc="compiling", unit="kernel", disable=self.quiet
        ) as progress:
            while waiting:
                for built in self.pool.take(set(waiting), timeout_s=LONGEST_S):
                    job = waiting.pop(built.number)
                    self.built[built.number] = built
                    if built.why:
                        raise BuildError(f"{job.problem} {job.config}: {built.why}")
                    progress.update()

    def cost(self, W: SparseMatrix, problem: Problem, config: KernelConfig) -> dict[str, float]:
        """Seconds of compiling it beside all others, and the most memory that its process held."""
        job = self.jobs.get((W.weight_id, problem, config))
        if job is None:
            return {}
        built = self.built[job.number]
        return {"s": round(built.seconds, 2), "peak_mb": round(built.peak_bytes / 1e6)}

    def take(self, W: SparseMatrix, problem: Problem, config: KernelConfig) -> Kernel:
        """The kernel, compiled here and now if nobody ordered it."""
        job = self.jobs.get((W.weight_id, problem, config))
        if job is not None and job.parcel.exists():
            kernel: Kernel = parcel.unpack(job.parcel)
            return kernel
        plan = plan_spmm(problem, config, W.csr, self.device)
        return plan.family.build(plan)

    def __enter__(self) -> Kernels:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pool.close()


def _is_compiled(problem: Problem, config: KernelConfig) -> bool:
    return families_of(problem)[config.kernel].device_kind == "cuda"


def _length(job: Job) -> int:
    """Families that write a program out take a time that follows the non-zeros."""
    compiles_weight = families_of(job.problem)[job.config.kernel].compiles_weight
    return job.problem.nnz if compiles_weight else 0


def compile_ahead(
    seen: Seen, device: Device, jobs: int | None = None, quiet: bool = True
) -> tuple[Built, ...]:
    """Compile what calls like those will take, on all cores; each weight keeps its kernels for the
    first of these calls. Returns what each took.

    jobs, quiet  as in ``autotune.warmup``

    Raises ``BuildError`` for a failure.
    """
    wanted = [(W, p, choose(p, W.pattern_hash, device).config) for W, p in seen]
    wanted = [w for w in wanted if _is_compiled(*w[1:])]
    if not wanted:
        return ()
    with Kernels(device, jobs, quiet) as kernels:
        for W, problem, config in wanted:
            kernels.order(W, problem, config)
        kernels.compile()
        for W, problem, config in wanted:
            W.built[problem, config] = kernels.take(W, problem, config)
        return tuple(kernels.built.values())
