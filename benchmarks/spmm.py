"""Sparse products on a GPU: every family against every library call.

Configurations are compiled in parallel, each of ours is verified against float64 with the derived
bound, and only then all calls of a problem are timed interleaved: CUDA graphs, warm, one run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm.auto import tqdm

import autotune
from autotune.ahead import Kernels
from autotune.budget import Budget
from benchmarks.ceilings import Ceilings
from benchmarks.contest import Case, Options, Row, rivals, row
from benchmarks.problems import PaperProblem
from sparse_triton.device import Device


def measure(
    cases: list[Case], options: Options, keep: Callable[[list[Row]], None] = lambda rows: None
) -> list[Row]:
    """A row a case, see ``contest.row``: compile everything ahead, then verify and time.

    keep  is told the rows so far after each case: an interrupted run loses one
    """
    device = torch.device("cuda")
    facts = Device.of(device)
    weights = {p: p.load() for p in {case.paper for case in cases}}
    rows = []
    with Kernels(facts) as kernels:
        for case in cases:
            for ours in rivals(case, weights[case.paper], facts, options).values():
                kernels.order(*ours)
        kernels.compile()
        ceilings = Ceilings.measure(device)
        moved = {p: W.to(device) for p, W in weights.items()}
        for case in tqdm(cases, desc="measuring", unit="problem"):
            rows.append(row(case, moved[case.paper], ceilings, options, kernels))
            keep(rows)
    return rows


def tune(cases: list[Case], budget: Budget) -> None:
    """Search a configuration for each case; what the store knows already is not searched again."""
    columns: dict[PaperProblem, list[int]] = {}
    for case in cases:
        columns.setdefault(case.paper, []).append(case.N)
    weights = {p: p.load() for p in columns}
    autotune.warmup(
        {f"{p.name} {p.sparsity}": W for p, W in weights.items()},
        n_map={f"{p.name} {p.sparsity}": tuple(N) for p, N in columns.items()},
        budget=budget,
        every_instance=True,
        quiet=False,
    )
