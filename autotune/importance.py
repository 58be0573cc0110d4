"""Which parameter matters: fANOVA over each family's trials."""

from __future__ import annotations

import math

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from autotune.space import SearchSpace
from sparse_triton.records import Entry, Trial

MIN_TRIALS = 8


def importances(entry: Entry) -> dict[str, dict[str, float]]:
    """Shares of the variance of log(time) by parameter, most important first, by family.

    Families with fewer than ``MIN_TRIALS`` times, or one time only, are left out. The evaluator is
    named because Optuna's default misreads studies whose sampler went where times were good.
    """
    space = SearchSpace.of(entry.key.problem, entry.device)
    out = {}
    for kernel in space.families:
        trials = [t for t in entry.trials if t.config.kernel == kernel and t.timing]
        study = _study(space, kernel, trials)
        if len({t.value for t in study.trials}) < 2 or len(study.trials) < MIN_TRIALS:
            continue
        names = [n for n, d in space.distributions(kernel).items() if not d.single()]
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), params=_varied(study, names)
        )
        out[kernel] = {name.removeprefix(f"{kernel}."): share for name, share in found.items()}
    return out


def _study(space: SearchSpace, kernel: str, trials: list[Trial]) -> optuna.Study:
    study = optuna.create_study()
    for t in trials:
        params = space.params(t.config)
        if params is not None and t.timing is not None:
            study.add_trial(
                create_trial(
                    params=params,
                    distributions=space.distributions(kernel),
                    value=math.log(t.timing.us),
                )
            )
    return study


def _varied(study: optuna.Study, names: list[str]) -> list[str]:
    """Parameters that took more than one value: the others explain nothing."""
    return [n for n in names if len({t.params[n] for t in study.trials}) > 1]
