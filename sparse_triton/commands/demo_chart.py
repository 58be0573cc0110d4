"""The demo's picture: one bar per layer, readable in grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_triton.config import KernelConfig

FASTER, SLOWER = "0.35", "0.8"


@dataclass(frozen=True)
class Row:
    """One layer: what ran it and why, µs of one call, largest error as a share of the bound."""

    layer: str
    M: int
    K: int
    N: int
    sparsity: float
    config: KernelConfig
    why: str
    dense_us: float
    sparse_us: float
    worst_error: float

    @property
    def speedup(self) -> float:
        return self.dense_us / self.sparse_us


def write_chart(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG of the speed-ups; makes the folder. Raises ``ImportError`` without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    speedups = [row.speedup for row in rows]
    colours = [FASTER if s >= 1 else SLOWER for s in speedups]
    bars = axes.barh([_label(row) for row in rows], speedups, color=colours, edgecolor="black")
    for bar, s in zip(bars, speedups, strict=True):
        bar.set_hatch("" if s >= 1 else "//")
    notes = [f" {r.speedup:.2f}x  ({r.dense_us:.1f} to {r.sparse_us:.1f} us)" for r in rows]
    axes.bar_label(bars, notes, fontsize=8)
    axes.axvline(1.0, color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, max(1.0, *speedups) * 1.35)
    axes.invert_yaxis()
    axes.set_xlabel("speed-up: time of the dense call / time of sparse-triton (dashed: equal)")
    axes.set_title(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _label(row: Row) -> str:
    return f"{row.layer}\n{row.M}x{row.K}x{row.N}, {row.config.kernel}"
