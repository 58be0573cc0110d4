"""``warmup``: every sparse weight of a model tuned before it is served."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import torch

from autotune.bench import Bench, LiveBench
from autotune.budget import Budget, as_budget
from autotune.compile_pool import CompilePool
from autotune.jobs import Job, jobs_of, with_siblings
from autotune.progress import Progress
from autotune.tune_weight import as_device, needs_compiling
from autotune.tuning import Study, TuneResult, Tuning
from autotune.weight import Weight
from autotune.weights_in import MIN_SPARSITY, find_weights, with_columns
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.matrix import SparseMatrix
from sparse_triton.problem import Problem
from sparse_triton.records import Entry, Key, Trial
from sparse_triton.store import KeyLock, Store, as_store

SIBLING_CONFIGS = 3  # of the leader, tried on each sibling
SIBLING_TRIALS = SIBLING_CONFIGS + 2  # and dense, and the heuristic
LOCKED_WAIT_S = 0.5  # when another process tunes all that is left
AT_ONCE = 2  # studies that share the compile pool: one times while the other compiles

BenchFor = Callable[[SparseMatrix, Problem, torch.device, CompilePool | None], Bench]


@dataclass(frozen=True)
class Tuned:
    """One line of the table. ``leader``: whose configurations were tried, if not searched."""

    job: Job
    result: TuneResult
    leader: str = ""


@dataclass
class WarmupResult:
    """``compiled_nnz`` non-zeros went through ``compile_s`` seconds of compiling (all cores).

    prepared  kernels of winners, or of untuned calls, made ready for the first call
    """

    tuned: list[Tuned] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    compiled: int = 0
    compiled_nnz: int = 0
    compile_s: float = 0.0
    prepared: int = 0

    @property
    def measured(self) -> int:
        return sum(t.result.measured for t in self.tuned)

    def add(self, other: WarmupResult) -> None:
        """Another device's results to these."""
        self.tuned += other.tuned
        self.skipped += other.skipped
        self.seconds += other.seconds
        self.compiled += other.compiled
        self.compiled_nnz += other.compiled_nnz
        self.compile_s += other.compile_s
        self.prepared += other.prepared

    def count(self, problem: Problem, trial: Trial) -> None:
        if trial.kernels or trial.config.kernel not in ("dense", "cpu"):
            self.compiled += 1
            self.compiled_nnz += problem.nnz
            self.compile_s += trial.compile_s or 0.0


@dataclass(frozen=True)
class Task:
    """A study waiting for its turn."""

    job: Job
    budget: Budget
    extra: tuple[tuple[KernelConfig, str], ...] = ()
    leader: str = ""


def warmup(
    model: Any,
    N: Iterable[int] = (),
    *,
    n_map: Mapping[str, tuple[int, ...]] | None = None,
    budget: str | Budget = "quick",
    store: Store | str | PathLike[str] | None = None,
    device: torch.device | str | None = None,
    min_sparsity: float = MIN_SPARSITY,
    every_instance: bool = False,
    x_dtype: str | None = None,
    sampler: str | None = None,
    seconds: float | None = None,
    jobs: int | None = None,
    compile_timeout_s: float | None = None,
    seed: int = 0,
    quiet: bool = True,
    bench_for: BenchFor = LiveBench,
) -> WarmupResult:
    """Tune every sparse weight of a model at its columns; see ``tune`` for budget and device.

    model           see ``weights_in.find_weights``
    N               columns, for weights whose columns neither ``n_map`` nor the model tells
    n_map           columns by weight name
    every_instance  search for each weight; otherwise weights of equal shape and similar sparsity
                    try the few best configurations of one of them
    quiet           no progress bars

    Interrupt it at any time: the next run goes on where this one was.
    """
    weights = with_columns(find_weights(model, min_sparsity), tuple(N), n_map or {})
    result = WarmupResult(skipped=[w.name for w in weights if not w.N and not w.seen])
    runner = Runner(
        as_device(device), as_store(store),
        as_budget(budget, sampler, seconds, compile_timeout_s), seed, bench_for, result,
    )  # fmt: skip
    return runner.tune(jobs_of(weights, x_dtype), every_instance, jobs, quiet)


def warmup_problems(
    problems: Iterable[tuple[str, SparseMatrix, Problem]],
    *,
    budget: str | Budget = "quick",
    store: Store | str | PathLike[str] | None = None,
    device: torch.device | str | None = None,
    every_instance: bool = False,
    seconds: float | None = None,
    jobs: int | None = None,
    seed: int = 0,
    quiet: bool = True,
    bench_for: BenchFor = LiveBench,
) -> WarmupResult:
    """Tune named weights for problems that are known in full; otherwise as ``warmup``."""
    found: dict[Key, Job] = {}
    for name, W, problem in problems:
        key = Key(problem, W.pattern_hash)
        names = found.setdefault(key, Job(key, Weight(name, W), [])).names
        names += [] if name in names else [name]
    where = as_device(device)
    limits = as_budget(budget, None, seconds, None)
    runner = Runner(where, as_store(store), limits, seed, bench_for, WarmupResult())
    return runner.tune(list(found.values()), every_instance, jobs, quiet)


def planned(
    model: Any,
    N: Iterable[int],
    n_map: Mapping[str, tuple[int, ...]],
    min_sparsity: float = MIN_SPARSITY,
    every_instance: bool = False,
) -> list[Job]:
    """The studies a warm-up would run, leaders with their siblings."""
    jobs = jobs_of(with_columns(find_weights(model, min_sparsity), tuple(N), n_map), None)
    return jobs if every_instance else with_siblings(jobs)


class Runner:
    """Steps up to ``AT_ONCE`` studies in turn; siblings queue up when their leader has finished."""

    def __init__(
        self,
        device: torch.device,
        store: Store,
        budget: Budget,
        seed: int,
        bench_for: BenchFor,
        result: WarmupResult,
    ) -> None:
        self.device, self.facts, self.store = device, Device.of(device), store
        self.budget, self.seed, self.bench_for, self.result = budget, seed, bench_for, result
        self.waiting: deque[Task] = deque()

    def tune(
        self, jobs: list[Job], every_instance: bool, processes: int | None, quiet: bool
    ) -> WarmupResult:
        """All of it; ``processes`` compile."""
        for job in jobs if every_instance else with_siblings(jobs):
            self.waiting.append(Task(job, self.budget))
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            pool = None
            if needs_compiling(self.facts) and self.waiting:
                pool = stack.enter_context(CompilePool(processes, self.budget.compile_s))
            bars = stack.enter_context(Progress(self.trials_planned(), quiet))
            self.run(pool, bars)
        self.result.seconds = time.monotonic() - started
        return self.result

    def trials_planned(self) -> int:
        """An upper guess for the progress bar: exhaustive studies count as 1000."""
        each = self.budget.trials or 1000
        siblings = sum(len(t.job.siblings) for t in self.waiting)
        return each * len(self.waiting) + SIBLING_TRIALS * siblings

    def run(self, pool: CompilePool | None, bars: Progress) -> None:
        at_once = AT_ONCE if pool is not None else 1
        active: list[Running] = []
        try:
            while self.waiting or active:
                self._start(active, at_once, pool, bars)
                for running in list(active):
                    if not running.step(0.05 if len(active) > 1 else 1.0):
                        active.remove(running)
                        self._finished(running)
        finally:
            for running in active:
                running.close()

    def _start(
        self, active: list[Running], at_once: int, pool: CompilePool | None, bars: Progress
    ) -> None:
        """Fill up to ``at_once``, passing over keys that another process is tuning.

        Nobody waits for a lock while holding one, so two warm-ups cannot block each other.
        """
        for _ in range(len(self.waiting)):
            if len(active) >= at_once:
                return
            task = self.waiting.popleft()
            lock = self.store.lock(task.job.key, self.facts)
            if lock.acquire(wait=False):
                active.append(Running(self, task, lock, pool, bars))
            else:
                self.waiting.append(task)
        if not active:
            time.sleep(LOCKED_WAIT_S)

    def _finished(self, running: Running) -> None:
        task = running.task
        result = running.finish()
        self.result.tuned.append(Tuned(task.job, result, task.leader))
        extra = [(config, "sibling") for config in leading(result.entry, SIBLING_CONFIGS)]
        budget = replace(self.budget, name="sibling", trials=SIBLING_TRIALS, sampler="tpe")
        for sibling in task.job.siblings:
            self.waiting.appendleft(Task(sibling, budget, tuple(extra), task.job.name))


class Running:
    """A study under way, with its lock and its bar."""

    def __init__(
        self, runner: Runner, task: Task, lock: KeyLock, pool: CompilePool | None, bars: Progress
    ) -> None:
        self.task, self.lock = task, lock
        job = task.job
        note = f"configurations tried first come from {task.leader}" if task.leader else ""
        study = Study(
            job.key, runner.facts, runner.store, task.budget, runner.seed, list(task.extra), note
        )
        bench = runner.bench_for(job.weight.matrix, job.key.problem, runner.device, pool)
        self.bar = bars.open(job.name, task.budget.trials)

        def on_trial(trial: Trial) -> None:
            runner.result.count(job.key.problem, trial)
            self.bar.advance(trial)

        self.tuning = Tuning(study, bench, on_trial)
        self.bar.skip(min(self.tuning.tried, task.budget.trials or 0))

    def step(self, timeout_s: float) -> bool:
        return self.tuning.step(timeout_s)

    def finish(self) -> TuneResult:
        try:
            return self.tuning.finish()
        finally:
            self.close()

    def close(self) -> None:
        self.bar.close()
        self.tuning.bench.close()
        self.lock.release()


def leading(entry: Entry, count: int) -> list[KernelConfig]:
    """The winner and the fastest after it, dense aside."""
    done = [
        t for t in entry.trials if t.outcome == "ok" and t.timing and t.config.kernel != "dense"
    ]
    done.sort(key=lambda t: t.timing.us if t.timing else 0.0)
    configs = [t.config for t in done]
    best = entry.best.config if entry.best else None
    if best in configs:
        configs.sort(key=lambda c: c != best)
    return configs[:count]
