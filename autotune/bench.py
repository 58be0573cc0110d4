"""From a configuration to a trial: build (here or in a child), verify, time.

``Bench`` is what a study needs of the world. ``LiveBench`` measures, ``ReplayBench`` replays.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from autotune import timing
from autotune.compile_pool import CompilePool
from autotune.conv_lab import lab_of
from autotune.kernel_names import kernel_names
from autotune.lab import quiet
from autotune.rotation import bound
from autotune.space import DENSE
from autotune.worker import Built, Job, save_csr
from sparse_triton.build import parts_of
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError, SparseTritonError
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels import families_of
from sparse_triton.kernels.family import Plan
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Problem
from sparse_triton.records import Timing, Trial

KEPT = 6  # bound kernels kept for the final comparison
HOPELESS = 2  # compile time-outs after which a family is not compiled again for this problem


class Bench(Protocol):
    """Candidates go in with ``submit`` and come out of ``collect`` as trials, in any order."""

    capacity: int  # candidates worth having in flight
    left_out: Mapping[str, str]  # families that are not worth building here, and why

    def submit(self, config: KernelConfig, origin: str) -> None: ...

    def collect(self, best_us: float, timeout_s: float) -> Trial | None:
        """The next finished candidate, or None if none finished in time."""

    def pending(self) -> int: ...

    def compare(self, configs: list[KernelConfig]) -> list[Timing]:
        """All of them again, interleaved."""

    def close(self) -> None: ...


@dataclass
class Ready:
    """A candidate whose build has ended: ``kernel`` or ``why`` not."""

    config: KernelConfig
    origin: str
    kernel: Any = None
    why: str = ""
    seconds: float | None = None


class LiveBench:
    """Measures on a real device. Families that run on CUDA are compiled in ``pool``."""

    def __init__(
        self,
        W: SparseMatrix,
        problem: Problem,
        device: torch.device,
        pool: CompilePool | None = None,
    ) -> None:
        self.device, self.problem, self.pool = device, problem, pool
        self.facts = Device.of(device)
        self.csr = replace(W.csr, _memo={})  # packed forms of candidates die with the study
        with quiet(device):
            self.lab = lab_of(W, problem, device)
        self.capacity = 1 if pool is None else pool.jobs + max(2, pool.jobs // 4)
        self.left_out: Mapping[str, str] = {} if pool is None else _too_slow(pool, problem)
        self.local: deque[Ready] = deque()
        self.compiling: dict[int, tuple[Job, str]] = {}
        self.timeouts: dict[str, int] = {}
        self.runs: dict[KernelConfig, tuple[float, Run]] = {}
        self.csr_file: Path | None = None

    # -- building ----------------------------------------------------------------------------

    def submit(self, config: KernelConfig, origin: str) -> None:
        if self.pool is None or families_of(self.problem)[config.kernel].device_kind != "cuda":
            self.local.append(Ready(config, origin))
        elif self.timeouts.get(config.kernel, 0) >= HOPELESS:
            why = f"not compiled: {HOPELESS} {config.kernel} programs took too long for this weight"
            self.local.append(Ready(config, origin, why=why))
        else:
            job = self._job(self.pool, config)
            self.compiling[job.number] = (job, origin)
            self.pool.submit(job)

    def _job(self, pool: CompilePool, config: KernelConfig) -> Job:
        number = pool.number()
        if self.csr_file is None:
            self.csr_file = pool.folder / f"{number}.npz"
            save_csr(self.csr, self.csr_file)
        out = pool.folder / f"{number}.parcel"
        return Job(number, self.csr_file, self.problem, config, self.facts, out)

    def pending(self) -> int:
        return len(self.local) + len(self.compiling)

    def _next(self, timeout_s: float) -> Ready | None:
        until = time.monotonic() + timeout_s
        while not self.local and self.pool is not None and self.compiling:
            for built in self.pool.take(set(self.compiling), until - time.monotonic()):
                self.local.append(self._arrived(built))
            if time.monotonic() >= until:
                break
        return self.local.popleft() if self.local else None

    def _arrived(self, built: Built) -> Ready:
        job, origin = self.compiling.pop(built.number)
        ready = Ready(job.config, origin, why=built.why, seconds=built.seconds)
        if self.pool is not None and not built.why:
            self.pool.note(job.config.kernel, self.problem.nnz, built.seconds)
        if built.timed_out:
            self.timeouts[job.config.kernel] = self.timeouts.get(job.config.kernel, 0) + 1
        if not built.why:
            ready.kernel = job.parcel
        return ready

    def _plan(self, config: KernelConfig) -> Plan[Problem]:
        return plan_spmm(self.problem, config, self.csr, self.facts)

    def _kernel(self, ready: Ready) -> Any:
        """The built kernel: out of its parcel, or built here (out of Triton's cache)."""
        if isinstance(ready.kernel, Path) and ready.kernel.exists():
            from autotune import parcel

            kernel = parcel.unpack(ready.kernel)
            ready.kernel.unlink()
            return kernel
        plan = self._plan(ready.config)
        return plan.family.build(plan)

    # -- measuring ---------------------------------------------------------------------------

    def collect(self, best_us: float, timeout_s: float) -> Trial | None:
        ready = self._next(timeout_s)
        if ready is None:
            return None
        if ready.why:
            return Trial(
                ready.config, "failed", None, ready.why, ready.origin, compile_s=ready.seconds
            )
        with quiet(self.device):
            return self._measure(ready, best_us)

    def _measure(self, ready: Ready, best_us: float) -> Trial:
        trial = Trial(ready.config, "failed", None, "", ready.origin, ready.seconds)
        start = time.perf_counter()
        try:
            kernel = self._kernel(ready)
            with kernel_names(kernel) as names:
                run = bound(kernel, self.problem, self.device)
            wrong = self.lab.check(run, ready.config)
            seconds = ready.seconds or time.perf_counter() - start
            trial = replace(
                trial,
                compile_s=round(seconds, 3),
                resources=_resources(kernel),
                kernels=tuple(names),
            )
            if wrong:
                return replace(trial, outcome="wrong", why=wrong)
            timer = timing.timer_for(self.lab.call(run), self.device)
            took, stopped = timing.two_stages(timer, best_us, self.device.type)
        except (SparseTritonError, RuntimeError, ValueError, MemoryError) as e:
            self._raise_if_device_is_lost(ready.config, e)
            return replace(trial, why=f"{type(e).__name__}: {e}"[:1000])
        self._keep(ready.config, took.us, run)
        return replace(trial, outcome="slow" if stopped else "ok", timing=took)

    def _keep(self, config: KernelConfig, us: float, run: Run) -> None:
        self.runs[config] = (us, run)
        if len(self.runs) > KEPT:
            slowest = max((c for c in self.runs if c != DENSE), key=lambda c: self.runs[c][0])
            del self.runs[slowest]

    def _raise_if_device_is_lost(self, config: KernelConfig, e: Exception) -> None:
        """A fault inside a kernel leaves a CUDA context that refuses everything."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            raise DeviceLost(config, e) from e

    def compare(self, configs: list[KernelConfig]) -> list[Timing]:
        with quiet(self.device):
            runs = [self._run(config) for config in configs]
            timers = [timing.timer_for(self.lab.call(run), self.device) for run in runs]
            return timing.interleaved(timers, self.device.type)

    def _run(self, config: KernelConfig) -> Run:
        if config in self.runs:
            return self.runs[config][1]
        plan = self._plan(config)
        return bound(plan.family.build(plan), self.problem, self.device)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.cancel(set(self.compiling))
        self.compiling.clear()
        self.local.clear()
        self.runs.clear()
        if self.csr_file is not None:
            self.csr_file.unlink(missing_ok=True)


class DeviceLost(BuildError):
    """A candidate left the device unusable for this process; ``config`` is it."""

    def __init__(self, config: KernelConfig, cause: Exception) -> None:
        super().__init__(
            f"{config} left the GPU unusable for this process ({cause}); it is stored as failed "
            "and will not be tried again: start the same command again to go on"
        )
        self.config = config


def _too_slow(pool: CompilePool, problem: Problem) -> dict[str, str]:
    """Families that, by what they took so far, would exceed the time limit of a compilation."""
    out = {}
    for kernel in families_of(problem):
        seconds = problem.nnz * pool.seconds_per_nnz(kernel)
        if seconds > pool.timeout_s:
            out[kernel] = f"compiling {problem.nnz} non-zeros would take about {seconds:.0f} s"
    return out


def _resources(kernel: Kernel) -> dict[str, int]:
    """The most registers and spills of the loaded kernels; the driver has told them at no cost."""
    parts = [part.compiled for part in parts_of(kernel)]
    registers = [n for c in parts if (n := getattr(c, "n_regs", None)) is not None]
    if not parts or len(registers) < len(parts):
        return {}
    return {"registers": max(registers), "spill_bytes": 4 * max(c.n_spills for c in parts)}
