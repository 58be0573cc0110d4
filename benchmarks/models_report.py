"""End-to-end results as Markdown tables and a picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.dense_models import BASELINE, PLAIN
from benchmarks.models import OURS
from benchmarks.report import markdown

Row = dict[str, Any]
COLUMNS = {
    PLAIN: "plain fp32",
    BASELINE: "dense fp32",
    "dense_tf32": "TF32",
    "dense_fp16": "fp16",
    "compiled_fp32": "compiled fp32",
    "compiled_fp16": "compiled fp16",
    OURS: "**sparse**",
}
HATCHES = {"compiled_fp32": "//", "compiled_fp16": "\\\\"}
COLOURS = {
    PLAIN: "white", "dense_tf32": "0.7", "dense_fp16": "0.5", "compiled_fp32": "0.85",
    "compiled_fp16": "0.6", OURS: "black",
}  # fmt: skip


def speedup(row: Row, name: str) -> float:
    return float(row["us"][BASELINE]["us"] / row["us"][name]["us"])


def latencies(rows: list[Row]) -> str:
    """One line a network and batch: ms, and how many times dense float32 ours is."""
    names = [n for n in COLUMNS if any(n in r["us"] for r in rows)]
    head = ["network", "batch", *(f"{COLUMNS[n]} ms" for n in names), "× fp32", "layers sparse"]
    lines = []
    for row in rows:
        ms = [f"{row['us'][n]['us'] / 1e3:.3f}" if n in row["us"] else "–" for n in names]
        layers = f"{row['sparse_layers']} of {row['layers']}"
        lines.append([row["network"], str(row["batch"]), *ms, f"{speedup(row, OURS):.2f}", layers])
    return markdown(head, lines)


def searched(rows: list[Row]) -> str:
    """What ``torch.compile`` chose from, and where it is missing; empty where it took no part."""
    networks = defaultdict(list)
    for row in rows:
        if row.get("searched"):
            space = ", ".join(f"{what} from {where}" for what, where in row["searched"].items())
            networks[space].append(f"{row['network']} at batch {row['batch']}")
    spaces = [f"{space} ({', '.join(names)})" for space, names in networks.items()]
    missing = [
        f"{row['network']} at batch {row['batch']}, {COLUMNS[name]}: {why}"
        for row in rows
        for name, why in row["left_out"].items()
    ]
    if not spaces and not missing:
        return ""
    words = "; ".join([*spaces, *missing])
    return f'*Compiled* is `torch.compile(mode="max-autotune")`, which chooses {words}.'


def sizes(rows: list[Row]) -> str:
    """Bytes, errors, the host's share, and what runs."""
    head = [
        "network", "batch", "weights MB", "file MB", "error (fp32's)",
        "without a graph, ms (fp32's)", "kernel families",
    ]  # fmt: skip
    lines = []
    for row in rows:
        weights, files, eager = row["weight_bytes"], row["file_bytes"], row["eager_us"]
        families = Counter(c["config"].partition("(")[0] for c in row["choices"])
        lines.append([
            row["network"], str(row["batch"]),
            f"{weights[BASELINE] / 1e6:.1f} → {weights[OURS] / 1e6:.1f}",
            f"{files[BASELINE] / 1e6:.1f} → {files[OURS] / 1e6:.1f} "
            f"({files[OURS] / files[BASELINE]:.0%})",
            f"{row['error'][OURS]:.1e} ({row['error'][BASELINE]:.1e})",
            f"{eager[OURS] / 1e3:.2f} ({eager[BASELINE] / 1e3:.2f})",
            ", ".join(f"{count} {name}" for name, count in families.most_common()),
        ])  # fmt: skip
    return markdown(head, lines)


def plot(rows: list[Row], environment: dict[str, str], path: Path) -> None:
    """Speed-up of every contestant over dense float32, a group of bars a network and batch."""
    from matplotlib.figure import Figure

    names = [n for n in COLUMNS if n != BASELINE and any(n in r["us"] for r in rows)]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.add_subplot()
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        ran = [(place, row) for place, row in enumerate(rows) if name in row["us"]]
        at = [place + (i - (len(names) - 1) / 2) * width for place, _ in ran]
        axis.bar(
            at, [speedup(row, name) for _, row in ran], width,
            label=COLUMNS[name].replace("**", ""), color=COLOURS[name], hatch=HATCHES.get(name),
            edgecolor="black", lw=0.4,
        )  # fmt: skip
    axis.axhline(1.0, color="black", lw=0.8, ls=":")
    axis.set_xticks(range(len(rows)), [f"{r['network']}\nbatch {r['batch']}" for r in rows])
    axis.set_ylabel("× dense fp32")
    axis.set_title(f"Pruned networks end to end — {environment['device']}", fontsize=11)
    axis.legend(ncols=len(names), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
