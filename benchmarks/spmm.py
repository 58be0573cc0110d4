"""Sparse products on a GPU: every family against every library call.

Configurations are compiled in parallel, each of ours is verified against float64 with the derived
bound, and only then all calls of a problem are timed interleaved: CUDA graphs, warm, one run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

import autotune
from autotune.budget import Budget
from benchmarks.ceilings import Ceilings
from benchmarks.contest import Case, Options, Row, configs_of, half_of, row
from benchmarks.problems import PaperProblem
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm


def measure(
    cases: list[Case], options: Options, keep: Callable[[list[Row]], None] = lambda rows: None
) -> list[Row]:
    """A row a case, see ``contest.row``: compile everything ahead, then verify and time.

    keep  is told the rows so far after each case: an interrupted run loses one
    """
    device = torch.device("cuda")
    facts = Device.of(device)
    weights = {p: p.load() for p in {case.paper for case in cases}}
    jobs = (
        Job(case, config, half=name == "spmm_fp16")
        for case in cases
        for name, config in configs_of(case, weights[case.paper], facts, options).items()
    )
    compile_ahead(jobs, facts)
    ceilings = Ceilings.measure(device)
    moved = {p: W.to(device) for p, W in weights.items()}
    rows = []
    for case in tqdm(cases, desc="measuring", unit="problem"):
        rows.append(row(case, moved[case.paper], ceilings, options))
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


class Job(NamedTuple):
    """One kernel to compile; ``half``: weight and X in float16."""

    case: Case
    config: KernelConfig
    half: bool = False


def compile_ahead(jobs: Iterable[Job], device: Device) -> None:
    """Fill Triton's disk cache, one process a core, the longest programs first."""
    ordered = sorted(
        {job for job in jobs if FAMILIES[job.config.kernel].device_kind == "cuda"},
        key=lambda j: (j.config.kernel != "unrolled", -j.case.paper.M * j.case.paper.K),
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(_build, job, device) for job in ordered]
        for future in tqdm(futures, desc="compiling", unit="kernel"):
            future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _build(job: Job, device: Device) -> None:
    W = job.case.paper.load()
    if job.half:
        W = half_of(W)
    problem = job.case.problem(W.nnz, "float16" if job.half else "float32")
    plan = plan_spmm(problem, job.config, W.csr, device)
    plan.family.build(plan)
