"""Results of convolutions as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import groups, means

Row = dict[str, Any]
BASELINE = "cudnn_fp32"
COLUMNS = {
    "cudnn_fp32": "cuDNN fp32",
    "cudnn_tf32": "TF32",
    "cudnn_fp16": "fp16 channels-last",
    "unrolled": "unrolled",
    "gather": "gather",
    "ours_then_pool": "conv2d, then pool",
    "conv2d": "**conv2d**",
}
SETS: dict[str, Callable[[Row], bool]] = {
    "ResNet-50 3x3": lambda r: _resnet(r) and r["stride"] == 1 and "values" not in r["layer"],
    "ResNet-50 3x3, published values": lambda r: "values" in r["layer"],
    "ResNet-50 3x3, stride 2": lambda r: _resnet(r) and r["stride"] == 2,
    "VGG-19": lambda r: r["network"] == "VGG-19",
}


def _resnet(row: Row) -> bool:
    return str(row["network"]) == "ResNet-50"


def speedup(row: Row, name: str) -> float:
    return float(row["us"][BASELINE]["us"] / row["us"][name]["us"])


def _names(rows: list[Row]) -> list[str]:
    return [n for n in COLUMNS if any(n in r["us"] for r in rows)]


def summary(rows: list[Row]) -> str:
    """Geometric means of (cuDNN fp32 time / time); a VGG-19 shape counts as often as it occurs."""
    return means(_headed(rows), COLUMNS, BASELINE)


def _headed(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    for (batch, sparsity), group in groups(rows).items():
        for title, belongs in SETS.items():
            mine = [r for r in group if belongs(r)]
            layers = sum(r["count"] for r in mine)
            if mine:
                yield f"{title}, batch {batch}, {float(sparsity):.0%} zeros, {layers} layers", mine


def details(rows: list[Row]) -> str:
    """One line a layer, µs."""
    names = _names(rows)
    head = " | ".join(COLUMNS[n] for n in names)
    lines = [
        f"| layer | batch | zeros | {head} | × fp32 | family |",
        "| --- | --- | --- |" + " --- |" * (len(names) + 2),
    ]
    for row in rows:
        us = [f"{row['us'][n]['us']:.1f}" if n in row["us"] else "–" for n in names]
        family = row["config"]["conv2d"].partition("(")[0]
        lines.append(
            f"| {row['layer']} | {row['batch']} | {float(row['sparsity']):.0%} | "
            + " | ".join(us)
            + f" | {speedup(row, 'conv2d'):.2f} | {family} ({row['choice']}) |"
        )
    return "\n".join(lines)


BARS = (
    ("cudnn_tf32", "0.8", ""), ("cudnn_fp16", "0.6", ""), ("ours_then_pool", "0.4", "//"),
    ("conv2d", "black", ""),
)  # fmt: skip


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Speed-up per layer over cuDNN fp32, one panel a (batch, sparsity)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from benchmarks.pictures import legend_above

    panels = groups(rows)
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(11, 2.8 * len(panels)), squeeze=False, constrained_layout=True
    )
    for axis, ((batch, sparsity), group) in zip(axes[:, 0], panels.items(), strict=True):
        bars = [b for b in BARS if all(b[0] in r["us"] for r in group)]
        width = 0.8 / len(bars)
        for i, (name, colour, hatch) in enumerate(bars):
            at = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(group))]
            heights = [speedup(r, name) for r in group]
            label = COLUMNS[name].replace("**", "")
            axis.bar(
                at,
                heights,
                width,
                label=label,
                color=colour,
                hatch=hatch,
                edgecolor="black",
                lw=0.4,
            )
        axis.axhline(1.0, color="black", lw=0.8, ls=":")
        labels = [
            r["layer"].replace(", ", "\n").replace("d v", "d\nv").replace(" ", "\n", 1)
            for r in group
        ]
        axis.set_xticks(range(len(group)), labels, fontsize=6)
        axis.set_ylabel("× cuDNN fp32")
        axis.set_title(f"batch {batch}, {float(sparsity):.0%} zeros", fontsize=10, loc="left")
    legend_above(axes[0, 0], ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
