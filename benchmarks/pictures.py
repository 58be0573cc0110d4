"""The pictures of ``results/``: readable in greyscale, labelled with units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.report import BASELINE, COLUMNS, Row, geometric_mean, groups, speedup

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BARS = (
    ("torch_csr", "0.9", "//"), ("cublas_tf32", "0.75", ""), ("cublas_fp16", "0.55", ""),
    ("spmm_fp16", "0.3", ".."), ("spmm", "black", ""),
)  # fmt: skip


def problems(rows: list[Row], environment: dict[str, str], path: Path) -> None:
    """A row of panels for each (batch, sparsity): speed-up of every problem with the geometric
    means, and the fraction of the floor that ``spmm`` reaches."""
    panels = groups(rows)
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(15, 2.7 * len(panels)), squeeze=False, constrained_layout=True,
        width_ratios=(3, 1),
    )  # fmt: skip
    for (left, right), ((batch, sparsity), group) in zip(axes, panels.items(), strict=True):
        _speedups(left, group)
        _floor(right, group)
        left.set_title(f"batch {batch}, {float(sparsity):.0%} zeros", fontsize=10, loc="left")
    axes[0, 1].set_title("floor / time", fontsize=10, loc="left")
    figure.suptitle(f"SpMM, speed-up over cuBLAS fp32 — {environment['device']}", fontsize=11)
    _save(figure, path)


def _speedups(axis: Any, group: list[Row]) -> None:
    bars = [b for b in BARS if all(b[0] in r["us"] for r in group)]
    width = 0.85 / len(bars)
    for i, (name, colour, hatch) in enumerate(bars):
        heights = [speedup(r, name) for r in group]
        mean = geometric_mean(heights)
        at = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(group) + 1)]
        label = f"{COLUMNS[name].replace('*', '')}: {mean:.2f} ×"
        style = {"color": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.4}
        axis.bar(at, [*heights, mean], width, label=label, **style)
    axis.axhline(1.0, color="black", lw=0.8, ls=":")
    labels = [f"{r['problem']}\n{r['M']}·{r['K']}\n·{r['N']}" for r in group]
    axis.set_xticks(range(len(group) + 1), [*labels, "geo-\nmetric\nmean"], fontsize=6.5)
    axis.set_ylabel(f"× {COLUMNS[BASELINE]}")
    legend_above(axis, ncols=len(bars), fontsize=7)


def legend_above(axis: Any, **how: Any) -> None:
    """A legend that covers no bar."""
    axis.set_ylim(top=1.2 * axis.get_ylim()[1])
    axis.legend(loc="upper right", **how)


def _floor(axis: Any, group: list[Row]) -> None:
    """Above 1: a replayed graph finds in L2 what the floor counts as memory traffic."""
    fractions = [r["floor_us"] / r["us"]["spmm"]["us"] for r in group]
    axis.bar(range(len(group)), fractions, color="0.4", edgecolor="black", lw=0.4)
    axis.axhline(1.0, color="black", lw=0.8, ls=":")
    axis.set_xticks(range(len(group)), [str(r["problem"]) for r in group], fontsize=6.5)
    axis.set_xlabel("problem", fontsize=8)


LINES = (
    ("cublas_fp32", "0.6", "-", "cuBLAS fp32"), ("cublas_tf32", "0.6", "--", "TF32"),
    ("cublas_fp16", "0.6", ":", "fp16"), ("unrolled", "0.3", "-.", "unrolled"),
    ("gather", "0.3", "--", "gather"), ("tf32x3", "0.3", ":", "tf32x3"),
    ("pairs", "0.3", "-", "pairs"),
    ("spmm_fp16", "black", ":", "spmm fp16"),
    ("spmm", "black", "-", "spmm"),
)  # fmt: skip


def sparsity_sweep(
    rows: list[Row], crossovers: dict[str, dict[str, float]], environment: dict[str, str],
    path: Path,
) -> None:  # fmt: skip
    """Time over sparsity, a panel a shape; where ``spmm`` crosses each dense call is marked."""
    shapes = dict.fromkeys((r["M"], r["K"], r["N"]) for r in rows)
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(6.5 * len(shapes), 4.2), squeeze=False, constrained_layout=True
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        mine = [r for r in rows if (r["M"], r["K"], r["N"]) == shape]
        for name, colour, style, label in LINES:
            ran = [(float(r["sparsity"]), r["us"][name]["us"]) for r in mine if name in r["us"]]
            xs, ys = [100 * s for s, _ in ran], [us for _, us in ran]
            axis.plot(xs, ys, style, color=colour, label=label, marker=".", lw=1.4)
        name = "·".join(map(str, shape))
        for i, (dense, at) in enumerate(crossovers[name].items()):
            axis.axvline(100 * at, color="0.8", lw=0.8)
            place = {"transform": axis.get_xaxis_transform(), "va": "top"}
            axis.text(100 * at, 0.98 - 0.05 * i, f" {COLUMNS[dense]}", fontsize=7, **place)
        axis.set(title=name, xlabel="zeros, %", ylabel="µs", yscale="log")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"When sparsity pays — {environment['device']}", fontsize=11)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
