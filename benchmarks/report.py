"""Results as committed JSON, as Markdown for the README, and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
BASELINE = "cublas_fp32"
COLUMNS = {
    "cublas_fp32": "cuBLAS fp32",
    "cublas_tf32": "TF32",
    "cublas_fp16": "fp16",
    "cublas_bf16": "bf16",
    "torch_csr": "torch CSR",
    "max_autotune": "max-autotune fp32",
    "unrolled": "unrolled",
    "gather": "gather",
    "tf32x3": "tf32x3",
    "pairs": "pairs",
    "untuned": "untuned",
    "spmm": "**spmm**",
    "spmm_fp16": "**spmm fp16**",
}


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def speedup(row: Row, name: str) -> float:
    return float(row["us"][BASELINE]["us"] / row["us"][name]["us"])


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def groups(rows: list[Row]) -> dict[tuple[int, str], list[Row]]:
    """Rows by (batch, sparsity), in order of appearance."""
    out: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r["batch"], r["sparsity"])):
        out.setdefault((row["batch"], row["sparsity"]), []).append(row)
    return out


def summary(rows: list[Row]) -> str:
    """Geometric means of (cuBLAS fp32 time / time) over the problems each contestant ran."""
    headed = (
        (f"batch {batch}, {float(sparsity):.0%} zeros, {len(group)} problems", group)
        for (batch, sparsity), group in groups(rows).items()
    )
    return means(headed, COLUMNS, BASELINE)


def means(headed: Iterable[tuple[str, list[Row]]], columns: dict[str, str], baseline: str) -> str:
    """A line of geometric means of (baseline's time / time) for each group of rows; behind a mean
    the number of rows that have the contestant, where not all do. A row with a ``count`` stands for
    as many.
    """
    table = list(headed)
    names = [
        n for n in columns if n != baseline and any(n in r["us"] for _, rows in table for r in rows)
    ]
    head = f"| geometric mean, × {columns[baseline]} | "
    lines = [
        head + " | ".join(columns[n] for n in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for title, rows in table:
        cells = (_mean(rows, name, baseline) for name in names)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(rows: list[Row], name: str, baseline: str) -> str:
    ran = [r for r in rows for _ in range(r.get("count", 1)) if name in r["us"]]
    if not ran:
        return "–"
    mean = f"{geometric_mean(r['us'][baseline]['us'] / r['us'][name]['us'] for r in ran):.2f}"
    return mean if all(name in r["us"] for r in rows) else f"{mean} ({len(ran)})"


def tuning_gain(rows: list[Row]) -> str:
    """What tuned configurations gained over an untuned call's."""
    tuned = [r for r in rows if r["choice"] == "stored"]
    parts = []
    for (batch, sparsity), group in groups(tuned).items():
        gains = [r["us"]["untuned"]["us"] / r["us"]["spmm"]["us"] for r in group]
        parts.append(
            f"{geometric_mean(gains):.2f} × (most {max(gains):.2f}) on {len(group)} problems at "
            f"{float(sparsity):.0%}, batch {batch}"
        )
    return "; ".join(parts)


MEMORY_BOUND = (1, 2, 12, 13, 14)  # of the paper's problems, at batch 32


def of_copy_bandwidth(rows: list[Row]) -> str:
    """How near the problems that memory bounds come to a large copy, as least traffic over time."""
    mine = [r for r in rows if r["batch"] == 32 and r["problem"] in MEMORY_BOUND]
    reached = {(r["problem"], r["sparsity"]): r["copy_us"] / r["us"]["spmm"]["us"] for r in mine}
    return ", ".join(
        f"{problem} ({float(sparsity):.0%} zeros) {fraction:.0%}"
        for (problem, sparsity), fraction in reached.items()
    )


def compile_cost(rows: list[Row]) -> str:
    """Of the longest of the kernels that untuned calls take."""
    costs = [r["compile"] for r in rows if r["compile"]]
    seconds, peak = (max(c[name] for c in costs) for name in ("s", "peak_mb"))
    return f"at most {seconds:.1f} s and {peak / 1000:.1f} GB of host memory"


def half_against_half(rows: list[Row]) -> str:
    """On how many problems a sparse call beats cuBLAS in float16, in float32 and in float16."""
    parts = []
    for (batch, sparsity), group in groups(rows).items():
        fp32, fp16 = (
            sum(r["us"][name]["us"] < r["us"]["cublas_fp16"]["us"] for r in group)
            for name in ("spmm", "spmm_fp16")
        )
        parts.append(
            f"batch {batch}, {float(sparsity):.0%} zeros: {fp32} and {fp16} of {len(group)}"
        )
    return "; ".join(parts)


def details(rows: list[Row]) -> str:
    """One line a problem, µs."""
    names = [n for n in COLUMNS if any(n in r["us"] for r in rows)]
    lines = [
        "| problem | batch | zeros | "
        + " | ".join(COLUMNS[n] for n in names)
        + " | × fp32 | family |",
        "| --- | --- | --- |" + " --- |" * (len(names) + 2),
    ]
    for row in rows:
        us = [f"{row['us'][n]['us']:.1f}" if n in row["us"] else "–" for n in names]
        shape = f"{row['problem']}: {row['M']}·{row['K']}·{row['N'] // row['batch']}"
        family = row["config"]["spmm"].partition("(")[0]
        lines.append(
            f"| {shape} | {row['batch']} | {float(row['sparsity']):.0%} | "
            + " | ".join(us)
            + f" | {speedup(row, 'spmm'):.2f} | {family} ({row['choice']}) |"
        )
    return "\n".join(lines)


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def known_rows(path: Path | None, environment: dict[str, str]) -> list[Row]:
    """Rows of an earlier run with the same device and versions."""
    if path is None or not path.is_file():
        return []
    result = json.loads(path.read_text())
    return list(result["rows"]) if result["environment"] == environment else []


def replace_between(text: str, marker: str, content: str) -> str:
    """``text`` with what stands between ``<!-- marker:start -->`` and ``:end`` replaced."""
    start, end = f"<!-- {marker}:start -->", f"<!-- {marker}:end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the text has no {start} … {end}")
    return f"{before}{start}\n{content}\n{end}{after}"
