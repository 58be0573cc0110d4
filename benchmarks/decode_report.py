"""Tables and picture of ``python -m benchmarks decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import geometric_mean

Row = dict[str, Any]


def summary(rows: list[Row]) -> str:
    """Geometric mean over the shapes of (best dense time / time), a line a sparsity."""
    columns = sorted({r["N"] for r in rows})
    lines = [
        "| zeros | byte floor | "
        + " | ".join(f"N = {n}" for n in columns)
        + " | of read rate, N = 1 |",
        "| --- | --- |" + " --- |" * (len(columns) + 1),
    ]
    for sparsity in sorted({r["sparsity"] for r in rows}):
        mine = [r for r in rows if r["sparsity"] == sparsity]
        cells = [
            f"{geometric_mean(r['speedup'] for r in mine if r['N'] == n):.2f}" for n in columns
        ]
        floor = geometric_mean(r["byte_floor"] for r in mine)
        first = [r["of_read_rate"] for r in mine if r["N"] == columns[0] and "of_read_rate" in r]
        cells.append(f"{min(first):.0%} – {max(first):.0%}" if first else "–")
        lines.append(f"| {sparsity:.0%} | {floor:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(rows: list[Row]) -> str:
    """One line a product."""
    lines = [
        "| W | zeros | N | µs | dense µs | × | call | of read rate | 2:4 µs | configuration |",
        "|" + " --- |" * 10,
    ]
    for r in rows:
        half = r["dense_us"].get("2:4 fp16")
        share = f"{r['of_read_rate']:.0%}" if "of_read_rate" in r else "–"
        lines.append(
            f"| {r['M']}·{r['K']} | {r['sparsity']:.0%} | {r['N']} | {r['us']:.1f} | "
            f"{r['dense_us'][r['dense']]:.1f} | {r['speedup']:.2f} | {r['dense']} | "
            f"{share} | {'–' if half is None else f'{half:.1f}'} | {r['config']} |"
        )
    return "\n".join(lines)


def plot(rows: list[Row], environment: dict[str, str], path: Path) -> None:
    """Speed-up over the sparsity, one panel an N, one line a shape, the byte floor dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = sorted({r["N"] for r in rows})
    figure, axes = plt.subplots(
        1, len(columns), figsize=(2.4 * len(columns) + 1, 3.2), sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    shapes = list(dict.fromkeys((r["M"], r["K"]) for r in rows))
    for axis, n in zip(axes[0], columns, strict=True):
        for i, shape in enumerate(shapes):
            mine = [r for r in rows if r["N"] == n and (r["M"], r["K"]) == shape]
            axis.plot(
                [100 * r["sparsity"] for r in mine], [r["speedup"] for r in mine],
                marker="os^Dv"[i % 5], ms=3.5, lw=1, color=str(0.15 * i),
                label=f"{shape[0]}·{shape[1]}",
            )  # fmt: skip
        axis.plot(
            [100 * r["sparsity"] for r in mine], [r["byte_floor"] for r in mine],
            ls="--", lw=0.8, color="black", label="bitmap + values",
        )  # fmt: skip
        axis.axhline(1.0, color="black", lw=0.6, ls=":")
        axis.set_title(f"N = {n}", fontsize=10)
        axis.set_xlabel("zeros, %")
    axes[0, 0].set_ylabel("× best dense call")
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(f"Pruned linear layers, 16-bit — {environment['device']}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
