"""The plots of one study, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from autotune.importance import importances
from sparse_triton.records import Entry, Trial

DPI = 110


def write_plots(entry: Entry, folder: Path) -> list[Path]:
    """history, dense, importances and one heat map per family; those there is something to show."""
    drawn: dict[str, Figure | None] = {
        "history": history(entry),
        "against_dense": against_dense(entry),
        "importances": importance_bars(entry),
    }
    for kernel in sorted({t.config.kernel for t in entry.trials if t.timing} - {"dense"}):
        drawn[f"heat_{kernel}"] = heat_maps(entry, kernel)
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DPI)
    return paths


def _timed(entry: Entry) -> list[tuple[Trial, float]]:
    return [(t, t.timing.us) for t in entry.trials if t.timing]


def _dense_us(entry: Entry) -> float | None:
    if entry.best and entry.best.dense:
        return entry.best.dense.us
    return next((us for t, us in _timed(entry) if t.config.kernel == "dense"), None)


def history(entry: Entry) -> Figure:
    """Times in the order they were measured, and the best so far."""
    figure, ax = _figure("Measured configurations, in order", "time (us)")
    times = _timed(entry)
    for kernel in sorted({t.config.kernel for t, _ in times}):
        at = [i for i, (t, _) in enumerate(times) if t.config.kernel == kernel]
        ax.scatter(at, [times[i][1] for i in at], s=16, label=kernel)
    ax.step(
        range(len(times)),
        np.minimum.accumulate([us for _, us in times]),
        where="post",
        color="black",
        linewidth=1,
        label="best so far",
    )
    _finish(ax, entry)
    return figure


def against_dense(entry: Entry) -> Figure:
    """Sorted times of each family against dense."""
    figure, ax = _figure("Configurations of each family, fastest first", "time (us)")
    for kernel in sorted({t.config.kernel for t, _ in _timed(entry)} - {"dense"}):
        times = sorted(us for t, us in _timed(entry) if t.config.kernel == kernel)
        ax.plot(range(1, len(times) + 1), times, marker=".", label=kernel)
    _finish(ax, entry)
    return figure


def importance_bars(entry: Entry) -> Figure | None:
    found = importances(entry)
    if not found:
        return None
    figure = Figure(figsize=(8, 1 + 1.6 * len(found)), layout="constrained")
    for i, (kernel, shares) in enumerate(found.items()):
        ax = figure.add_subplot(len(found), 1, i + 1)
        names = list(shares)[::-1]
        ax.barh(names, [shares[n] for n in names])
        ax.set_title(f"{kernel}: share of the variance of log time (fANOVA)", fontsize=10)
    return figure


def heat_maps(entry: Entry, kernel: str) -> Figure:
    """M_blocks x N_blocks for each Gy; a cell is the best time over all other fields."""
    mine = [(t.config, us) for t, us in _timed(entry) if t.config.kernel == kernel]
    rows = sorted({c.M_blocks for c, _ in mine})
    columns = sorted({c.N_blocks for c, _ in mine})
    groups = sorted({c.Gy for c, _ in mine})
    width = max(3.2, 0.5 * len(columns) + 1.5)
    figure = Figure(
        figsize=(width * len(groups), max(3.0, 0.35 * len(rows) + 1.6)), layout="constrained"
    )
    low, high = min(us for _, us in mine), max(us for _, us in mine)
    for i, Gy in enumerate(groups):
        cells = np.full((len(rows), len(columns)), np.nan)
        for config, us in mine:
            if config.Gy == Gy:
                at = rows.index(config.M_blocks), columns.index(config.N_blocks)
                cells[at] = np.fmin(cells[at], us)
        ax = figure.add_subplot(1, len(groups), i + 1)
        image = ax.imshow(cells, cmap="viridis_r", norm="log", vmin=low, vmax=high, aspect="auto")
        ax.set_xticks(range(len(columns)), [str(c) for c in columns], rotation=90, fontsize=7)
        ax.set_yticks(range(len(rows)), [str(r) for r in rows], fontsize=7)
        ax.set(title=f"{kernel}, Gy = {Gy}", xlabel="N_blocks", ylabel="M_blocks" if i == 0 else "")
    figure.colorbar(image, ax=figure.axes, label="best time (us)")
    return figure


def _figure(title: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.add_subplot()
    ax.set(title=title, ylabel=y, yscale="log")
    return figure, ax


def _finish(ax: Any, entry: Entry) -> None:
    dense = _dense_us(entry)
    if dense is not None:
        ax.axhline(dense, color="gray", linestyle="--", label=f"dense, {dense:.1f} us")
    ax.legend(fontsize=8)
