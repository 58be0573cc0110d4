"""How much a study may spend. A budget is a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

from sparse_triton.errors import InputError

Sampler = Literal["tpe", "random", "exhaustive"]
SAMPLERS = ("tpe", "random", "exhaustive")


@dataclass(frozen=True)
class Budget:
    """Limits of one study.

    trials     measured configurations, dense and those of earlier runs included; None: all of them
    seconds    wall time after which nothing new is tried; None: no limit
    compile_s  longest compilation of one configuration
    give_up    a family that compiles the weight itself is left alone once its first results are
               this many times slower than the best of all; None: never
    """

    name: str
    trials: int | None
    seconds: float | None
    sampler: Sampler
    compile_s: float = 60.0
    give_up: float | None = None


BUDGETS = {
    "quick": Budget("quick", 40, 45.0, "tpe", compile_s=20.0, give_up=1.5),
    "full": Budget("full", 200, None, "tpe"),
    "exhaustive": Budget("exhaustive", None, None, "exhaustive"),
}


def as_budget(
    budget: str | Budget,
    sampler: str | None = None,
    seconds: float | None = None,
    compile_s: float | None = None,
) -> Budget:
    """A budget by name, with another sampler or other limits where given.

    Raises ``InputError`` for names it does not know.
    """
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise InputError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
        budget = BUDGETS[budget]
    if sampler is not None:
        if sampler not in SAMPLERS:
            raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        budget = replace(budget, sampler=cast(Sampler, sampler))
    if seconds is not None:
        budget = replace(budget, seconds=seconds)
    return budget if compile_s is None else replace(budget, compile_s=compile_s)
