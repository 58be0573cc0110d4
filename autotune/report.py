"""One page and its plots per study: ``<out>/<device>-<pattern>-N<columns>-<key>/index.html``."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from autotune.importance import importances
from autotune.table import show_row
from sparse_triton.atomic import write_atomically
from sparse_triton.errors import InputError
from sparse_triton.records import OUTCOMES, Entry, Trial

TOP = 15
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; text-align: left }
tr:nth-child(even) { background: #f3f4f6 } img { max-width: 100% } code { font-size: .9em }
"""


def write_report(entries: Iterable[Entry], out: Path) -> list[Path]:
    """Write a page for each entry that has times, and an index of all; the pages written.

    Raises ``InputError`` where matplotlib is not installed.
    """
    try:
        from autotune import plots
    except ImportError:
        raise InputError("reports need matplotlib: pip install 'sparse-triton[plots]'") from None
    pages = []
    for entry in entries:
        if not any(t.timing for t in entry.trials):
            continue
        folder = out / folder_name(entry)
        folder.mkdir(parents=True, exist_ok=True)
        images = plots.write_plots(entry, folder)
        write_atomically(folder / "index.html", page(entry, images))
        pages.append(folder / "index.html")
    if pages:
        write_atomically(out / "index.html", _index(out, pages))
    return pages


def folder_name(entry: Entry) -> str:
    key = entry.key
    return f"{entry.device.slug}-{key.pattern_hash[:8]}-N{key.problem.N}-{key.sha256[:6]}"


def page(entry: Entry, images: list[Path]) -> str:
    """The study as HTML; images are named relative to it."""
    row = show_row(entry)
    facts = {
        "device": row["device"],
        "pattern": entry.key.pattern_hash,
        "winner": str(entry.best.config) if entry.best else "none yet",
        "time": f"{entry.best.timing}" if entry.best else "-",
        "dense": f"{entry.best.dense or 'did not run'}" if entry.best else "-",
        "times faster than dense": row["x dense"],
        "outcomes": ", ".join(f"{entry.outcomes()[o]} {o}" for o in OUTCOMES),
        "versions": ", ".join(f"{k} {v}" for k, v in entry.env.items()),
        "note": entry.note,
    }
    parts = [
        f"<h1>{_text(entry.key.problem)}</h1>",
        _table([], [(k, v) for k, v in facts.items() if v not in ("", None)]),
        *(f'<p><img src="{p.name}" alt="{p.stem}"></p>' for p in images),
        "<h2>Importances (fANOVA of log time)</h2>",
        _importances(entry),
        f"<h2>Fastest {TOP}</h2>",
        _fastest(entry),
        *_troubles(entry),
    ]
    return _html(str(entry.key.problem), parts)


def _importances(entry: Entry) -> str:
    rows = [
        (kernel, ", ".join(f"{name} {share:.2f}" for name, share in found.items()))
        for kernel, found in importances(entry).items()
    ]
    return _table(["family", "share of the variance"], rows) if rows else "<p>too few trials</p>"


def _fastest(entry: Entry) -> str:
    timed = sorted((t for t in entry.trials if t.timing), key=_us)
    rows = [
        (str(t.config), f"{_us(t):.2f}", t.outcome, t.origin, _resources(t)) for t in timed[:TOP]
    ]
    return _table(["configuration", "us", "outcome", "proposed by", "resources"], rows)


def _troubles(entry: Entry) -> list[str]:
    rows = [
        (t.outcome, str(t.config), t.why) for t in entry.trials if t.outcome in ("wrong", "failed")
    ]
    return ["<h2>Wrong or failed</h2>", _table(["outcome", "configuration", "why"], rows)][
        : 2 * bool(rows)
    ]


def _resources(t: Trial) -> str:
    return ", ".join(f"{v} {k}" for k, v in t.resources.items())


def _us(t: Trial) -> float:
    return t.timing.us if t.timing else float("inf")


def _index(out: Path, pages: list[Path]) -> str:
    links = [f'<li><a href="{p.relative_to(out)}">{_text(p.parent.name)}</a></li>' for p in pages]
    return _html("Studies", ["<h1>Studies</h1>", "<ul>", *links, "</ul>"])


def _html(title: str, parts: list[str]) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</html>\n"])


def _table(head: list[str], rows: Sequence[tuple[object, ...]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(h)}</th>" for h in head) + "</tr>"] if head else []
    lines += ["<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
