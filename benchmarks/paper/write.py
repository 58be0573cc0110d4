"""A measured part as JSON, as a picture and as Markdown; all but the measuring needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.paper.part import Part, Row
from benchmarks.report import markdown, write


def save(part: Part, rows: list[Row], environment: dict[str, str], folder: Path) -> None:
    """``<name>.json`` and ``<name>.png``."""
    result = {
        "benchmark": f"paper {part.name}", "title": part.title, "source": part.source,
        "differs": part.differs, "environment": environment, "rows": rows,
    }  # fmt: skip
    write(folder / f"{part.name}.json", result)
    picture(part, rows, environment, folder)


def load(part: Part, folder: Path) -> dict[str, Any] | None:
    """A saved result; None where there is none."""
    path = folder / f"{part.name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def picture(part: Part, rows: list[Row], environment: dict[str, str], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=part.size, layout="constrained")
    part.draw(rows, figure)
    figure.suptitle(f"{part.title} — {environment['device']}", fontsize=10)
    figure.savefig(folder / f"{part.name}.png", dpi=110)


def table(part: Part, rows: list[Row]) -> str:
    """Markdown: ours beside theirs."""
    return markdown(*part.table(rows))


def page(parts: Iterable[Part], folder: Path, pictures: str) -> str:
    """Every saved result: table, picture, source and what differs. ``pictures``: path to them."""
    sections = []
    for part in parts:
        result = load(part, folder)
        if result is None:
            sections.append(f"## {part.title}\n\nNot measured yet.\n\n*Source*: {part.source}.")
            continue
        facts = result["environment"]
        sections.append(
            f"## {part.title}\n\n{table(part, result['rows'])}\n\n"
            f"![{part.title}]({pictures}/{part.name}.png)\n\n"
            f"*What differs*: {part.differs}\n\n*Source*: {part.source}. *Here*: "
            f"{facts['device']}, driver {facts.get('driver', 'unknown')}, torch {facts['torch']}, "
            f"Triton {facts['triton']}; `{part.name}.json`."
        )
    return "\n\n".join(sections)
