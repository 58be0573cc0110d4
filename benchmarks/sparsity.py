"""From which sparsity on a sparse product pays: two shapes from 50 to 98 % zeros."""

from __future__ import annotations

import math

from benchmarks.contest import Case, Options, Row
from benchmarks.problems import PaperProblem
from benchmarks.spmm import measure

SHAPES = ((512, 512, 256), (128, 128, 3136))
SPARSITIES = ("0.5", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95", "0.98")
DENSE = ("cublas_fp32", "cublas_tf32", "cublas_fp16")


def run() -> list[Row]:
    """Rows as of ``python -m benchmarks spmm``; weights are drawn and magnitude-pruned."""
    cases = [
        Case(PaperProblem(i, *shape, "drawn", s, weight=None, t4_speedup=None))
        for i, shape in enumerate(SHAPES, start=100)
        for s in SPARSITIES
    ]
    return measure(cases, Options(csr=False))


def crossovers(rows: list[Row]) -> dict[str, dict[str, float]]:
    """By shape and dense call: the sparsity from which on ``spmm`` (its float16 form against
    float16) is faster; left out where the sweep does not show it."""
    out = {}
    for M, K, N in SHAPES:
        mine = [r for r in rows if (r["M"], r["K"], r["N"]) == (M, K, N)]
        found = {name: _crossing(mine, name) for name in DENSE}
        out[f"{M}·{K}·{N}"] = {name: at for name, at in found.items() if at is not None}
    return out


def _crossing(rows: list[Row], dense: str) -> float | None:
    """Where log(dense time / our time) last changes sign upwards, linear between points."""
    ours = "spmm_fp16" if dense == "cublas_fp16" else "spmm"
    gains = [math.log(r["us"][dense]["us"] / r["us"][ours]["us"]) for r in rows]
    at = [float(r["sparsity"]) for r in rows]
    for i in range(len(rows) - 1, 0, -1):
        if gains[i] > 0 >= gains[i - 1]:
            part = -gains[i - 1] / (gains[i] - gains[i - 1])
            return round(at[i - 1] + part * (at[i] - at[i - 1]), 3)
    return at[0] if gains and min(gains) > 0 else None


def table(rows: list[Row]) -> str:
    """µs by sparsity, and the crossings."""
    names = ("cublas_fp32", "cublas_tf32", "cublas_fp16", "spmm", "spmm_fp16")
    lines = [f"| shape | zeros | {' | '.join(names)} |", "| --- |" + " --- |" * 6]
    for r in rows:
        us = " | ".join(f"{r['us'][n]['us']:.2f}" for n in names)
        lines.append(f"| {r['M']}·{r['K']}·{r['N']} | {float(r['sparsity']):.0%} | {us} |")
    lines.append("")
    for shape, found in crossovers(rows).items():
        at = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        lines.append(f"{shape}: faster from {at} zeros on")
    return "\n".join(lines)
