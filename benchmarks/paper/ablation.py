"""SparseRT's Fig. 8: what unrolling, load balancing and autotuning each bring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autotune.ahead import Kernels
from autotune.lab import Lab, quiet
from autotune.timing import interleaved, timer_for
from benchmarks.contest import verified
from benchmarks.paper import published
from benchmarks.paper.part import Part, Row, Setting, Table, number, shape_of
from benchmarks.problems import paper_problems
from benchmarks.report import geometric_mean
from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import SpmmProblem

NUMBERS = (1, 2, 3, 4, 13, 14, 15, 16)  # where a program compiles in about a second
FULL = "everything"
VARIANTS = {
    FULL: "unrolled, even_nnz row blocks, best of the grid",
    "no unrolling": "family gather, best of its grid",
    "no load balancing": "unrolled, rows as they come, best of the grid",
    "no autotuning": "unrolled, 32 rows, 32 columns and Gy = 4 for every problem",
}


def _fixed(problem: SpmmProblem) -> KernelConfig:
    return KernelConfig(
        "unrolled", M_blocks=ceil_div(problem.M, 32), N_blocks=ceil_div(problem.N, 32), Gy=4,
        row_blocks="even_nnz",
    )  # fmt: skip


def grids(problem: SpmmProblem, device: Device) -> dict[str, list[KernelConfig]]:
    """The legal configurations each variant may choose from."""
    unrolled = [
        KernelConfig(
            "unrolled", M_blocks=max(1, ceil_div(problem.M, rows)),
            N_blocks=ceil_div(problem.N, 32), Gy=Gy, row_blocks="even_nnz",
        )
        for rows in (16, 32, 64)
        for Gy in (2, 4, 8)
    ]  # fmt: skip
    default = FAMILIES["gather"].default_config(problem, device)
    gather = [replace(default, Gy=Gy) for Gy in (1, 2, 4, 8)]
    found = {
        FULL: unrolled,
        "no unrolling": [default, *gather],
        "no load balancing": [replace(c, row_blocks="even_rows") for c in unrolled],
        "no autotuning": [_fixed(problem)],
    }
    return {
        name: [c for c in dict.fromkeys(configs) if why_not(problem, c, device) is None]
        for name, configs in found.items()
    }


def _measure(setting: Setting) -> list[Row]:
    papers = [p for p in paper_problems(setting.folder, ("0.9",)) if p.number in NUMBERS]
    weights = {p: p.load() for p in papers}
    problems = {p: SpmmProblem(p.M, p.K, p.N, weights[p].nnz) for p in papers}
    choices = {p: grids(problems[p], setting.facts) for p in papers}
    rows = []
    with Kernels(setting.facts) as kernels:
        for p in papers:
            for config in _all(choices[p]):
                kernels.order(weights[p], problems[p], config)
        kernels.compile()
        for p in papers:
            W = weights[p].to(setting.device)
            row: Row = {"problem": p.number, "M": p.M, "K": p.K, "N": p.N, "nnz": W.nnz}
            rows.append(row | _contest(Lab(W, problems[p], setting.device), choices[p], kernels))
    return rows


def _all(choices: dict[str, list[KernelConfig]]) -> list[KernelConfig]:
    return list(dict.fromkeys(c for configs in choices.values() for c in configs))


def _contest(lab: Lab, choices: dict[str, list[KernelConfig]], kernels: Kernels) -> Row:
    """Each variant's fastest configuration and its µs, all measured interleaved."""
    calls = {}
    with quiet(lab.device):
        for config in _all(choices):
            run = kernels.take(lab.W, lab.problem, config).bind(lab.device)
            verified(lab, run, config, str(lab.problem))
            calls[config] = lab.call(run)
        # The calls own what their captured graphs read and write: they must outlive the timing.
        timings = interleaved([timer_for(c, lab.device) for c in calls.values()], "cuda")
    times = {config: t.us for config, t in zip(calls, timings, strict=True)}
    best = {name: min(cs, key=lambda c: times[c]) for name, cs in choices.items()}
    return {
        "us": {name: round(times[c], 4) for name, c in best.items()},
        "config": {name: str(c) for name, c in best.items()},
    }


def _table(rows: list[Row]) -> Table:
    head = ["problem", *(f"{name} µs" for name in VARIANTS), "published"]
    cells = [
        [
            f"{r['problem']}: {shape_of(r)}", *(number(r["us"][name]) for name in VARIANTS),
            published.NOT_AVAILABLE,
        ]
        for r in rows
    ]  # fmt: skip
    slower = [geometric_mean(r["us"][n] / r["us"][FULL] for r in rows) for n in VARIANTS]
    cells.append(["**geometric mean, × everything**", *(f"**{s:.2f}**" for s in slower), ""])
    return head, cells


def _draw(rows: list[Row], figure: Any) -> None:
    axis = figure.subplots()
    shades = ("black", "0.4", "0.65", "0.9")
    for i, (name, shade) in enumerate(zip(VARIANTS, shades, strict=True)):
        heights = [r["us"][FULL] / r["us"][name] for r in rows]
        at = [x + (i - 1.5) * 0.2 for x in range(len(rows))]
        axis.bar(at, heights, 0.2, color=shade, edgecolor="black", linewidth=0.5, label=name)
    axis.set_xticks(range(len(rows)), [f"{r['problem']}\n{shape_of(r)}" for r in rows], fontsize=7)
    axis.set(ylabel="speed relative to everything on", title="90 % zeros, float32, batch 1")
    axis.legend(fontsize=8, ncols=4, loc="lower center")


FIG_8 = Part(
    "sparsert-fig-8",
    "SparseRT, Fig. 8: ablation",
    published.SPARSERT,
    "The paper's bars were not available as numbers. Here each switch takes away one thing: "
    + "; ".join(f"*{name}*: {words}" for name, words in VARIANTS.items())
    + ". The cut of a row block into Gy groups is by non-zeros in all of them: the library has no "
    "other.",
    _measure,
    _table,
    _draw,
    (9.0, 4.0),
)
