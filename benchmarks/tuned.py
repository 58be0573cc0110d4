"""What tuning brings on the paper's problems: winner against heuristic, a fixed choice, and dense.

All problems are tuned in one warm-up (the store remembers, so a second run only measures); then the
four are measured interleaved, in one run. The heuristic is ``heuristics.default_config``: what a
call takes when nothing is stored. The fixed choice has the same sizes for every problem.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import autotune
from autotune.bench import LiveBench
from autotune.space import DENSE
from autotune.table import table as text_table
from benchmarks.problems import PaperProblem, paper_problems
from benchmarks.report import geometric_mean
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.heuristics import default_config
from sparse_triton.matrix import SparseMatrix
from sparse_triton.problem import SpmmProblem

Row = dict[str, Any]
COLUMNS = (
    "problem", "sparsity", "winner", "us", "heuristic us", "fixed us", "dense us",
    "x heuristic", "x fixed", "x dense",
)  # fmt: skip
AGAINST = ("heuristic", "fixed", "dense")


def run(folder: Path, sparsities: tuple[str, ...], budget: str) -> list[Row]:
    """A row a problem: µs of the four, and what the winner gains."""
    problems = list(paper_problems(folder, sparsities))
    weights = warm_up(problems, budget)
    return [_row(p, weights[p]) for p in problems]


def warm_up(problems: list[PaperProblem], budget: str) -> dict[PaperProblem, SparseMatrix]:
    """Tune every problem at batch 1; their weights."""
    weights = {p: p.load() for p in problems}
    named = {f"{p.name} {p.sparsity}": W for p, W in weights.items()}
    columns = {f"{p.name} {p.sparsity}": (p.N,) for p in problems}
    autotune.warmup(named, n_map=columns, budget=budget, every_instance=True, quiet=False)
    return weights


def _row(paper: PaperProblem, W: SparseMatrix) -> Row:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = Device.of(device)
    problem = SpmmProblem(paper.M, paper.K, paper.N, W.nnz)
    winner = choose(problem, W.pattern_hash, facts).config
    configs = [winner, default_config(problem, facts), _fixed(problem, facts), DENSE]
    us, *others = (t.us for t in LiveBench(W, problem, device).compare(configs))
    row: Row = {"problem": paper.name, "sparsity": paper.sparsity, "winner": str(winner)}
    row |= {"heuristic": str(configs[1]), "fixed": str(configs[2]), "us": round(us, 3)}
    for name, other in zip(AGAINST, others, strict=True):
        row[f"{name} us"] = round(other, 3)
        row[f"x {name}"] = round(other / us, 3)
    return row


def _fixed(problem: SpmmProblem, device: Device) -> KernelConfig:
    """4 rows x 32 columns, K in four, on a GPU; 32 rows x 128 columns on a CPU."""
    if device.kind == "cpu":
        return KernelConfig("cpu", ceil_div(problem.M, 32), ceil_div(problem.N, 128))
    return KernelConfig(
        "gather",
        M_blocks=ceil_div(problem.M, 4),
        N_blocks=ceil_div(problem.N, 32),
        Gy=4,
        row_blocks="sorted",
        prefetch=4,
    )


def table(rows: list[Row]) -> str:
    lines = [text_table(rows, COLUMNS), ""]
    for sparsity in sorted({r["sparsity"] for r in rows}):
        mine = [r for r in rows if r["sparsity"] == sparsity]
        means = (f"{geometric_mean(r[f'x {n}'] for r in mine):.2f} x {n}" for n in AGAINST)
        lines.append(f"geometric mean, {len(mine)} problems at {sparsity}: {', '.join(means)}")
    return "\n".join(lines)
