"""Who proposes the next configuration: Optuna (ask and tell), or every one in turn.

The study lives in memory: the store is the record, and what it holds is told to a new study first.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from autotune.budget import Budget
from autotune.space import DENSE, SearchSpace
from sparse_triton.config import KernelConfig
from sparse_triton.kernels import FAMILIES
from sparse_triton.records import Trial

# Proposals in a row that bring nothing new before a sampler counts as having run dry.
DRY = 100
# What a configuration without a time counts as, in log(time) above dense.
PENALTY = 5.0
SPILL = "spill_bytes"
# Configurations of a slowly compiled family that are tried before it may be given up.
PROBES = 4
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Candidate:
    """A configuration to try. ``trials``: the study's own trials that wait for its time."""

    config: KernelConfig
    origin: str
    trials: list[optuna.Trial] = field(default_factory=list, hash=False, compare=False)


def value_of(trial: Trial, dense_us: float) -> float:
    """The objective: log(time), or a finite penalty for what has no time."""
    if trial.timing is not None:
        return math.log(trial.timing.us)
    return math.log(dense_us) + PENALTY


class Search:
    """Candidates one by one: dense, then the seeds, then the sampler's.

    ``why_not(config)`` is asked before anything is handed out; what it refuses is told to the study
    as a finite penalty and reported through ``on_invalid``.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        why_not: Callable[[KernelConfig], str | None],
        on_invalid: Callable[[Trial], None],
        seed: int = 0,
    ) -> None:
        self.space = space
        self.give_up = budget.give_up
        self.why_not = why_not
        self.on_invalid = on_invalid
        self.dense_us = 1.0
        self.study = optuna.create_study(sampler=_sampler(budget, seed))
        self.known: dict[KernelConfig, Trial] = {}
        self.open: dict[KernelConfig, Candidate] = {}
        self.seeds: deque[tuple[Candidate, dict[str, Any] | None]] = deque()
        self.every: Iterator[KernelConfig] | None = (
            iter(space) if budget.sampler == "exhaustive" else None
        )

    def remember(self, trials: Iterable[Trial]) -> None:
        """Take over results of earlier runs; they are never measured again."""
        for trial in trials:
            self.known[trial.config] = trial
            if trial.config == DENSE and trial.timing is not None:
                self.dense_us = trial.timing.us
        for trial in self.known.values():
            self._add(trial)

    def seed(self, config: KernelConfig, origin: str) -> None:
        """Try this configuration before the sampler has its say."""
        if config in self.known or any(seed.config == config for seed, _ in self.seeds):
            return
        params = self.space.params(config)
        exact = params is not None and self.every is None and self.space.config(params) == config
        self.seeds.append((Candidate(config, origin), params if exact else None))

    def ask(self) -> Candidate | None:
        """The next configuration nobody knows the time of; None: there is none."""
        for _ in itertools.count() if self.every is not None else range(DRY):
            candidate = self._propose()
            if candidate is None:
                return None
            if self._is_new(candidate):
                self.open[candidate.config] = candidate
                return candidate
        return None

    def tell(self, trial: Trial) -> None:
        """A candidate's result."""
        if trial.config == DENSE and trial.timing is not None:
            self.dense_us = trial.timing.us
        self.known[trial.config] = trial
        candidate = self.open.pop(trial.config, None)
        waiting = candidate.trials if candidate else []
        for own in waiting:
            self._finish(own, trial)
        if not waiting:
            self._add(trial)

    # -- inside ------------------------------------------------------------------------------

    def _propose(self) -> Candidate | None:
        if self.seeds:
            seed, params = self.seeds.popleft()
            if params is None:
                return seed
            self.study.enqueue_trial(params, {"origin": seed.origin}, skip_if_exists=True)
        if self.every is not None:
            config = next(self.every, None)
            return None if config is None else Candidate(config, "exhaustive")
        if not self.space.families:
            return None
        trial = self.study.ask()
        kernel = trial.suggest_categorical("kernel", tuple(self.space.families))
        for name, d in self.space.distributions(kernel).items():
            _suggest(trial, name, d)
        origin = str(trial.user_attrs.get("origin", "sampler"))
        return Candidate(self.space.config(trial.params), origin, [trial])

    def _is_new(self, candidate: Candidate) -> bool:
        """Whether it has to be measured; otherwise its trials are told what is known."""
        config = candidate.config
        if config in self.open:
            self.open[config].trials.extend(candidate.trials)
            return False
        if config not in self.known:
            if candidate.trials and self._left_alone(config.kernel):
                for own in candidate.trials:
                    self.study.tell(own, math.log(self.dense_us) + PENALTY)
                self._instead()
                return False
            reason = self.why_not(config)
            if reason is None:
                return True
            if self.every is not None:  # most of a full space is illegal: that is no news
                return False
            self.known[config] = Trial(config, "invalid", why=reason, origin=candidate.origin)
            self.on_invalid(self.known[config])
        for own in candidate.trials:
            self._finish(own, self.known[config])
        return False

    def _left_alone(self, kernel: str) -> bool:
        """Whether a family that compiles the weight itself has had its chance: ``PROBES`` results,
        all far behind the best, or as many still being compiled. See ``Budget.give_up``."""
        if self.give_up is None or not FAMILIES[kernel].compiles_weight:
            return False
        measured = [t.timing.us for t in self.known.values() if t.timing is not None]
        own = [t for t in self.known.values() if t.config.kernel == kernel]
        times = [t.timing.us for t in own if t.timing is not None]
        out = sum(c.kernel == kernel for c in self.open)
        tried = sum(t.outcome != "invalid" for t in own)
        if tried < PROBES:
            return tried + out >= PROBES
        return min(times, default=math.inf) > self.give_up * min(measured, default=math.inf)

    def _instead(self) -> None:
        """Have the sampler propose another family next."""
        others = [k for k in self.space.families if not self._left_alone(k)]
        if others:
            self.study.enqueue_trial({"kernel": others[0]})

    def _finish(self, own: optuna.Trial, trial: Trial) -> None:
        if SPILL in trial.resources:
            own.set_constraint(SPILL, float(trial.resources[SPILL]))
        self.study.tell(own, value_of(trial, self.dense_us))

    def _add(self, trial: Trial) -> None:
        """Tell the study of a result it did not ask for, at the nearest parameters it has."""
        params = self.space.params(trial.config)
        if params is None:
            return
        distributions = self.space.distributions(trial.config.kernel)
        constraints = {SPILL: float(trial.resources[SPILL])} if SPILL in trial.resources else {}
        self.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=params,
                distributions=distributions,
                value=value_of(trial, self.dense_us),
                constraints=constraints or None,
            )
        )


def _suggest(trial: optuna.Trial, name: str, d: BaseDistribution) -> None:
    if isinstance(d, IntDistribution):
        trial.suggest_int(name, d.low, d.high)
    elif isinstance(d, CategoricalDistribution):
        trial.suggest_categorical(name, d.choices)


def _sampler(budget: Budget, seed: int) -> optuna.samplers.BaseSampler:
    if budget.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # ``group`` samples each family's own fields jointly; it is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=8
        )
