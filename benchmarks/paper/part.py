"""What one reproduced result is, and what measuring it may ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks import conv, spmm
from benchmarks.contest import Case, Options
from benchmarks.conv_problems import ConvLayer
from benchmarks.paper.published import NOT_AVAILABLE
from benchmarks.problems import PaperProblem, paper_problems
from benchmarks.tuned import warm_up
from sparse_triton.device import Device
from sparse_triton.errors import InputError

Row = dict[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[str]]]


@dataclass(frozen=True)
class Part:
    """One table or figure of the literature.

    differs  what differs from the original and why, in a sentence or two
    measure  rows of plain JSON values; needs a GPU, or saved results
    saved    which benchmark's saved results it can be made from
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
    saved: str | None = None


@dataclass(frozen=True)
class Setting:
    """The GPU at hand, the folder of the published weights, and the budget of tuning the paper's
    products first (None: as the store has them).

    saved  folder of what ``benchmarks spmm``, ``conv`` and ``convpool`` have measured: taken from
           there instead of measured again
    """

    folder: Path
    device: torch.device
    budget: str | None = None
    saved: Path | None = None

    @property
    def facts(self) -> Device:
        return Device.of(self.device)

    @cached_property
    def products(self) -> list[Row]:
        """The paper's 20 products at 90 % and 11 at 95 %, batch 1, measured once for all parts."""
        if self.saved is not None:
            return [r for r in saved_rows(self.saved, "spmm") if r["batch"] == 1]
        problems = list(paper_problems(self.folder, ("0.9", "0.95")))
        if self.budget is not None:
            warm_up(problems, self.budget)
        return self.contest(problems, ())

    def contest(self, problems: Iterable[PaperProblem], families: tuple[str, ...]) -> list[Row]:
        """Every library call, what ``spmm`` takes and these families' defaults, as
        ``python -m benchmarks spmm`` has them."""
        return spmm.measure([Case(p) for p in problems], Options(families=families, half=False))

    def convolutions(self, layers: Iterable[ConvLayer], benchmark: str) -> list[Row]:
        """As ``python -m benchmarks conv`` or ``convpool`` has them."""
        if self.saved is not None:
            rows = {_identity(r): r for r in saved_rows(self.saved, benchmark)}
            wanted = [(layer.name, layer.batch, layer.sparsity) for layer in layers]
            if missing := [w for w in wanted if w not in rows]:
                raise InputError(f"{benchmark}.json in {self.saved} has no rows for {missing}")
            return [rows[w] for w in wanted]
        return conv.run(layers)


def saved_rows(folder: Path, benchmark: str) -> list[Row]:
    return list(json.loads((folder / f"{benchmark}.json").read_text())["rows"])


def _identity(row: Row) -> tuple[str, int, str]:
    return row["layer"], row["batch"], row["sparsity"]


def shape_of(row: Row) -> str:
    return f"{row['M']}·{row['K']}·{row['N']}"


def us_of(row: Row, name: str) -> float:
    """Microseconds of a contestant; NaN where it did not run."""
    found = row["us"].get(name)
    return float(found["us"]) if found else float("nan")


def number(value: float | None, digits: int = 2) -> str:
    """``None``: not published; NaN: did not run."""
    return NOT_AVAILABLE if value is None else "–" if value != value else f"{value:.{digits}f}"
