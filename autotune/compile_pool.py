"""Compiling on all cores: supervised child processes that may crash or hang without consequence.

Each worker holds one job at a time. A worker that dies costs its job, one that exceeds the time
limit is killed and costs its job; a fresh one takes its place. The interpreter is started anew, not
forked and not through ``multiprocessing``, so the caller's script needs no ``__main__`` guard.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from autotune.worker import Built, Job
from sparse_triton.errors import BuildError

START_LIMIT_S = 180.0
MAX_FAILED_STARTS = 3
FIXED_COST_S = 4.0  # what any kernel may take on busy cores


def default_jobs() -> int:
    """All cores this process may use but one, which times."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) - 1)


class Worker:
    """One child process and the job it holds."""

    def __init__(self, folder: Path) -> None:
        from triton import knobs

        self.errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - ``end`` closes it
        self.pipe, theirs = Pipe()
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path),
            "CUDA_VISIBLE_DEVICES": "",
            "TRITON_CACHE_DIR": knobs.cache.dir,
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from autotune.worker import main; main({theirs.fileno()})"],
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            pass_fds=[theirs.fileno()],
            env=env,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        theirs.close()
        self.ready = False
        self.job: Job | None = None
        self.since = time.monotonic()

    def take(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self.pipe.send(job)

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()
        self.errors.close()


class CompilePool:
    """Compiles jobs of any number of studies. ``take`` hands out results as they come.

    Raises ``BuildError`` where no worker can be started at all.
    """

    def __init__(self, jobs: int | None = None, timeout_s: float = 60.0) -> None:
        self.jobs = jobs or default_jobs()
        self.timeout_s = timeout_s
        self.temporary = tempfile.TemporaryDirectory(prefix="sparse-triton-")
        self.folder = Path(self.temporary.name)
        self.queue: deque[Job] = deque()
        self.workers: list[Worker] = []
        self.results: dict[int, Built] = {}  # nobody has taken them yet
        self.abandoned: set[int] = set()
        self.costs: dict[str, list[float]] = {}
        self.failed_starts = 0
        self.count = 0

    def number(self) -> int:
        """A fresh number for a job or a file."""
        self.count += 1
        return self.count

    def submit(self, job: Job) -> None:
        self.queue.append(job)
        self._staff()

    def note(self, kernel: str, nnz: int, seconds: float) -> None:
        """What a compilation took. Short ones say nothing about the cost of a non-zero."""
        if seconds > FIXED_COST_S:
            total = self.costs.setdefault(kernel, [0.0, 0.0])
            total[0] += seconds
            total[1] += nnz

    def seconds_per_nnz(self, kernel: str) -> float:
        """Mean cost of a non-zero in a family's compilations; 0.0 where it is unknown or small."""
        seconds, nnz = self.costs.get(kernel, (0.0, 1.0))
        return seconds / nnz

    def cancel(self, numbers: set[int]) -> None:
        """Forget jobs; what is being compiled runs on and its result is to be ignored."""
        self.queue = deque(job for job in self.queue if job.number not in numbers)
        self.abandoned |= numbers

    def take(self, numbers: set[int], timeout_s: float) -> list[Built]:
        """Results among ``numbers``, as soon as there is one or the time is over."""
        until = time.monotonic() + timeout_s
        while not (mine := [n for n in self.results if n in numbers]):
            left = until - time.monotonic()
            for built in self._finished(max(0.0, left)):
                self.results[built.number] = built
            if left <= 0:
                break
        return [self.results.pop(n) for n in mine]

    def _finished(self, timeout_s: float) -> list[Built]:
        self._staff()
        pipes = {w.pipe: w for w in self.workers}
        until = min([timeout_s, *(self._left(w) for w in self.workers)])
        out: list[Built] = []
        for pipe in wait(list(pipes), max(0.0, until)) if pipes else []:
            assert isinstance(pipe, Connection)
            out += self._heard(pipes[pipe])
        late = [w for w in self.workers if self._left(w) <= 0]
        out += [replace(self._lost(w, self._overdue(w)), timed_out=True) for w in late]
        self._staff()
        return [built for built in out if built.number >= 0 and not self._unwanted(built.number)]

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()
        self.queue.clear()
        self.temporary.cleanup()

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------

    def _unwanted(self, number: int) -> bool:
        if number not in self.abandoned:
            return False
        self.abandoned.discard(number)
        (self.folder / f"{number}.parcel").unlink(missing_ok=True)
        return True

    def _staff(self) -> None:
        """Jobs to idle workers; new workers for what is left."""
        for worker in list(self.workers):
            if worker.ready and worker.job is None and self.queue:
                try:
                    worker.take(self.queue[0])
                except OSError:  # it died while idle
                    self._lost(worker, "")
                else:
                    self.queue.popleft()
        starting = sum(not w.ready for w in self.workers)
        wanted = min(self.jobs - len(self.workers), len(self.queue) - starting)
        self.workers += [Worker(self.folder) for _ in range(wanted)]

    def _heard(self, worker: Worker) -> list[Built]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            words = worker.last_words()
            return [self._lost(worker, f"the compiler ended its process: {words}")]
        if message == "ready":
            worker.ready, self.failed_starts = True, 0
            return []
        worker.job = None
        return [message]

    def _left(self, worker: Worker) -> float:
        """Seconds until the worker is overdue."""
        if worker.ready and worker.job is None:
            return float("inf")
        limit = self.timeout_s if worker.ready else START_LIMIT_S
        return worker.since + limit - time.monotonic()

    def _overdue(self, worker: Worker) -> str:
        return f"not compiled within {self.timeout_s:g} s" if worker.ready else "did not start"

    def _lost(self, worker: Worker, why: str) -> Built:
        """Bury a worker; its job, if any, has failed (number -1: it had none)."""
        job, seconds = worker.job, time.monotonic() - worker.since
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= MAX_FAILED_STARTS:
                raise BuildError(f"compile workers do not start: {worker.last_words() or why}")
        worker.end()
        self.workers.remove(worker)
        return Built(job.number if job else -1, why, seconds)
