"""What one reproduced result is, and what measuring it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks import spmm
from benchmarks.contest import Case, Options
from benchmarks.paper.published import NOT_AVAILABLE
from benchmarks.problems import PaperProblem, paper_problems
from benchmarks.tuned import warm_up
from sparse_triton.device import Device

Row = dict[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[str]]]


@dataclass(frozen=True)
class Part:
    """One table or figure of the literature.

    differs  what differs from the original and why, in a sentence or two
    measure  rows of plain JSON values; needs a GPU
    table    head and cells, ours beside theirs
    draw     onto matplotlib's figure of size ``size`` (inches)
    """

    name: str
    title: str
    source: str
    differs: str
    measure: Callable[[Setting], list[Row]]
    table: Callable[[list[Row]], Table]
    draw: Callable[[list[Row], Any], None]
    size: tuple[float, float] = (9.0, 4.0)


@dataclass(frozen=True)
class Setting:
    """The GPU at hand, the folder of the published weights, and the budget of tuning the paper's
    products first (None: as the store has them)."""

    folder: Path
    device: torch.device
    budget: str | None = None

    @property
    def facts(self) -> Device:
        return Device.of(self.device)

    @cached_property
    def products(self) -> list[Row]:
        """The paper's 20 products at 90 % and 11 at 95 %, batch 1, measured once for all parts."""
        problems = list(paper_problems(self.folder, ("0.9", "0.95")))
        if self.budget is not None:
            warm_up(problems, self.budget)
        return self.contest(problems, ())

    def contest(self, problems: Iterable[PaperProblem], families: tuple[str, ...]) -> list[Row]:
        """Every library call, what ``spmm`` takes and these families' defaults, as
        ``python -m benchmarks spmm`` has them."""
        return spmm.measure([Case(p) for p in problems], Options(families=families, half=False))


def shape_of(row: Row) -> str:
    return f"{row['M']}·{row['K']}·{row['N']}"


def us_of(row: Row, name: str) -> float:
    """Microseconds of a contestant; NaN where it did not run."""
    found = row["us"].get(name)
    return float(found["us"]) if found else float("nan")


def number(value: float | None, digits: int = 2) -> str:
    """``None``: not published; NaN: did not run."""
    return NOT_AVAILABLE if value is None else "–" if value != value else f"{value:.{digits}f}"
