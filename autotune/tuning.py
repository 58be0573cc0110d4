"""One study as a machine that is stepped: ask, submit, collect, record; at the end, compare.

Stepping lets a warm-up run two studies over one compile pool: one times while the other compiles.
"""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autotune import interrupt
from autotune.bench import Bench, DeviceLost
from autotune.budget import Budget
from autotune.search import Search
from autotune.space import DENSE, SearchSpace, steps
from autotune.timing import faster
from sparse_triton import executor
from sparse_triton.choose import fitted, neighbours, stale
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, environment
from sparse_triton.heuristics import default_config
from sparse_triton.kernels import families_of
from sparse_triton.plan import why_not
from sparse_triton.records import Best, Entry, Key, Trial
from sparse_triton.store import Store

FINALISTS = 3
SEEDS_FROM_NEIGHBOURS = 4
SEEDS_FROM_STALE = 6
SEED_DISTANCE = 6.0  # a seed may come from further away than a guess

log = logging.getLogger("sparse_triton")


@dataclass(frozen=True)
class TuneResult:
    """What a study found. ``measured`` counts this run's trials, ``entry`` holds all there are."""

    entry: Entry
    measured: int
    seconds: float

    @property
    def config(self) -> KernelConfig:
        return self.entry.best.config if self.entry.best else DENSE

    @property
    def us(self) -> float:
        """Microseconds of the winner; NaN where nothing ran."""
        return self.entry.best.timing.us if self.entry.best else math.nan

    @property
    def dense_us(self) -> float:
        best = self.entry.best
        return best.dense.us if best and best.dense else math.nan

    @property
    def speedup(self) -> float:
        """Times faster than dense."""
        return self.entry.best.speedup if self.entry.best else math.nan

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.entry.outcomes().items())
        return f"{self.config}: {self.us:.2f} us, {self.speedup:.2f} x dense ({counts})"


@dataclass
class Study:
    """What a tuning is about: everything but the way it is measured.

    extra  configurations to try first, with their origin
    """

    key: Key
    device: Device
    store: Store
    budget: Budget
    seed: int = 0
    extra: list[tuple[KernelConfig, str]] = field(default_factory=list)
    note: str = ""


class Tuning:
    """Runs one study. Every finished trial is in the store before the next one starts.

    The caller holds the key's lock. ``on_trial`` is told of each trial measured.
    """

    def __init__(
        self, study: Study, bench: Bench, on_trial: Callable[[Trial], None] | None = None
    ) -> None:
        self.study, self.bench = study, bench
        self.on_trial = on_trial or (lambda trial: None)
        self.problem = study.key.problem
        self.started = time.monotonic()
        self.clock: float | None = None  # runs from the first result on: starting children is free
        self.measured = 0
        self.dry = False
        self.entry, old = _entry_of(study)
        self.search = Search(
            SearchSpace.of(self.problem, study.device, bench.left_out),
            study.budget,
            lambda config: why_not(self.problem, config, study.device),
            self._record,
            study.seed,
        )
        self.search.remember(self.entry.trials)
        for config, origin in [(DENSE, "dense"), *study.extra, *self._seeds(old)]:
            fits = why_not(self.problem, config, study.device) is None
            if fits and config.kernel not in bench.left_out:
                self.search.seed(config, origin)

    def _seeds(self, old: Entry | None) -> list[tuple[KernelConfig, str]]:
        """Heuristics, what was best before versions changed, neighbours in the store, and what lies
        around the heuristic."""
        study = self.study
        out = [
            (family.default_config(self.problem, study.device), "heuristic")
            for name, family in families_of(self.problem).items()
            if name in self.search.space.families
        ]
        if old is not None:
            out += [(t.config, "stale") for t in _fastest(old.trials)[:SEEDS_FROM_STALE]]
        near = []
        for _, entry in neighbours(study.key, study.device, study.store, SEED_DISTANCE):
            assert entry.best is not None
            near.append((fitted(entry.best.config, entry.key.problem, self.problem), "neighbour"))
        around = [(config, "step") for config in self._steps()]
        return out + near[:SEEDS_FROM_NEIGHBOURS] + around

    def _steps(self) -> list[KernelConfig]:
        """Around what an untuned call would take, the better part of which is known already."""
        best = default_config(self.problem, self.study.device)
        fields = self.search.space.families.get(best.kernel, {})
        return list(dict.fromkeys(c for c in steps(best, fields) if c != best))

    # -- stepping ----------------------------------------------------------------------------

    def step(self, timeout_s: float = 1.0) -> bool:
        """Keep the bench busy and take one result, if one comes in time. False: nothing is left."""
        interrupt.check()
        while self._may_ask():
            candidate = self.search.ask()
            if candidate is None:
                self.dry = not self.search.open
                break
            self.bench.submit(candidate.config, candidate.origin)
        if self._overtime() or not self.bench.pending():
            return False
        try:
            trial = self.bench.collect(self._best_us(), timeout_s)
        except DeviceLost as e:
            self._record(Trial(e.config, "failed", why=str(e)))
            raise
        if trial is not None:
            self.measured += 1
            if trial.config != DENSE and self.clock is None:
                self.clock = time.monotonic()
            self.search.tell(trial)
            self._record(trial)
            self.on_trial(trial)
        return True

    def _may_ask(self) -> bool:
        room = self.bench.pending() < self.bench.capacity
        return room and not self.dry and not self._overtime() and self.tried < self._limit

    @property
    def tried(self) -> int:
        """Configurations measured for this key, ever, and those under way."""
        finished = sum(t.outcome != "invalid" for t in self.entry.trials)
        return finished + self.bench.pending()

    @property
    def _limit(self) -> float:
        return math.inf if self.study.budget.trials is None else self.study.budget.trials

    @property
    def total(self) -> int:
        """How many configurations will have been measured at the end, at most."""
        return int(min(self._limit, len(self.search.space) + len(families_of(self.problem))))

    def _overtime(self) -> bool:
        limit = self.study.budget.seconds
        if limit is None or self.clock is None:
            return False
        return time.monotonic() - self.clock > limit

    def _best_us(self) -> float:
        done = _fastest(self.entry.trials)
        return done[0].timing.us if done and done[0].timing else math.inf

    def _record(self, trial: Trial) -> None:
        self.entry = self.entry.with_trials(trial)
        if trial.outcome != "invalid":  # those cost nothing and are written with the next one
            self.study.store.put(self.entry)

    # -- the end -----------------------------------------------------------------------------

    def finish(self) -> TuneResult:
        """Compare the leaders, interleaved, write the winner, and let running weights see it."""
        known = {t.config for t in self.entry.trials if t.outcome == "ok"}
        news = self.measured > 0 or self.entry.best is None or self.entry.best.config not in known
        if news and known:
            best = self._compare()
            self.entry = replace(self.entry, best=best, note=self._note())
            self.study.store.put(self.entry)
            executor.forget(self.study.key.pattern_hash)
        self.bench.close()
        return TuneResult(self.entry, self.measured, time.monotonic() - self.started)

    def _note(self) -> str:
        left_out = (f"{kernel} left out: {why}" for kernel, why in self.bench.left_out.items())
        return "; ".join(filter(None, (self.study.note, *left_out)))

    def _compare(self) -> Best:
        """Dense unless another is faster beyond noise; the heuristic is always among them."""
        finished = _fastest(self.entry.trials)
        always = {DENSE, default_config(self.problem, self.study.device)}
        sparse = [t.config for t in finished if t.config != DENSE]
        configs = [t.config for t in finished if t.config in always]
        configs += [c for c in sparse[:FINALISTS] if c not in configs]
        times = dict(zip(configs, self.bench.compare(configs), strict=True))
        dense = times.get(DENSE)
        winner = min(times, key=lambda c: times[c].us)
        if dense is not None and not faster(times[winner], dense):
            winner = DENSE
        return Best(winner, times[winner], dense)


def _fastest(trials: tuple[Trial, ...]) -> list[Trial]:
    """Trials with a full timing, fastest first."""
    done = [t for t in trials if t.outcome == "ok" and t.timing is not None]
    return sorted(done, key=lambda t: t.timing.us if t.timing else math.inf)


def _entry_of(study: Study) -> tuple[Entry, Entry | None]:
    """(entry to go on with, stale entry to take seeds from)."""
    old = study.store.get(study.key, study.device)
    if old is not None and not stale(old, study.device):
        return old, None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fresh = Entry(study.key, study.device, None, (), environment(study.device), now)
    if old is not None:
        log.info("%s was tuned with other versions; its best are tried first", study.key.problem)
    return fresh, old
