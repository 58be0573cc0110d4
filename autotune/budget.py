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

    trials   measured configurations, dense and those of earlier runs included; None: all there are
    seconds  wall time after which nothing new is tried; None: no limit
    """

    name: str
    trials: int | None
    seconds: float | None
    sampler: Sampler


BUDGETS = {
    "quick": Budget("quick", 40, 60.0, "tpe"),
    "full": Budget("full", 200, None, "tpe"),
    "exhaustive": Budget("exhaustive", None, None, "exhaustive"),
}


def as_budget(
    budget: str | Budget, sampler: str | None = None, seconds: float | None = None
) -> Budget:
    """A budget by name, with another sampler or wall time where given.

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
    return budget if seconds is None else replace(budget, seconds=seconds)
