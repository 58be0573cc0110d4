"""The 20 SpMM problems of SparseRT on a GPU: every family against every library call.

Per problem: configurations are compiled in parallel, each of ours is verified against float64 with
the derived bound, and only then all calls are timed interleaved: CUDA graphs, warm, one run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from autotune.timing import interleaved, timer_for
from benchmarks.baselines import Call as Contestant
from benchmarks.baselines import dense_calls, torch_csr_call
from benchmarks.ceilings import Ceilings
from benchmarks.problems import PaperProblem, paper_problems
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.executor import prepare, problem_of
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import default_config, plan_spmm, why_not
from sparse_triton.problem import SpmmProblem
from sparse_triton.verify import call_ratio

OURS = ("unrolled", "gather", "dense")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One problem at one batch size; N of the product is ``paper.N * batch``."""

    paper: PaperProblem
    batch: int

    @property
    def N(self) -> int:
        return self.paper.N * self.batch


def run(
    folder: Path, batches: tuple[int, ...], sparsities: tuple[str, ...], csr: bool
) -> list[Row]:
    """Rows of every problem of the paper; see ``_row`` for their fields."""
    return measure(
        [Case(p, batch) for p in paper_problems(folder, sparsities) for batch in batches], csr
    )


def measure(cases: list[Case], csr: bool, families: tuple[str, ...] = OURS) -> list[Row]:
    """A row a case: compile everything ahead, then verify and time.

    families  whose defaults are timed beside what ``spmm`` takes
    """
    device = torch.device("cuda")
    weights = {p: p.load() for p in {case.paper for case in cases}}
    facts = Device.of(device)
    plans = [
        (case, config)
        for case in cases
        for config in _configs(
            _problem(case, weights[case.paper]), weights[case.paper], facts, families
        ).values()
    ]
    compile_ahead(plans, facts)
    ceilings = Ceilings.measure(device)
    moved = {p: W.to(device) for p, W in weights.items()}
    bar = tqdm(cases, desc="measuring", unit="problem")
    return [_row(case, moved[case.paper], ceilings, csr, families) for case in bar]


def _problem(case: Case, W: SparseMatrix) -> SpmmProblem:
    return SpmmProblem(case.paper.M, case.paper.K, case.N, W.nnz)


def _configs(
    problem: SpmmProblem, W: SparseMatrix, device: Device, families: tuple[str, ...]
) -> dict[str, KernelConfig]:
    """Each family's default where it is legal, and what ``spmm`` itself would take."""
    configs = {name: FAMILIES[name].default_config(problem, device) for name in families}
    configs["spmm"] = choose(problem, W.pattern_hash, device).config
    return {name: c for name, c in configs.items() if why_not(problem, c, device) is None}


def _row(
    case: Case, W: SparseMatrix, ceilings: Ceilings, csr: bool, families: tuple[str, ...]
) -> Row:
    """Shapes; for each contestant ``us``, quantiles, and for ours configuration and error."""
    X = torch.randn(case.paper.K, case.N, device=W.device)
    call = Call(X, None, None, None, False)
    problem = problem_of(W, call)
    facts = Device.of(X.device)
    configs = _configs(problem, W, facts, families)
    contestants: dict[str, Contestant] = {}
    errors = {}
    for name, config in configs.items():
        launch = prepare(W, call, config)
        Y = torch.full((case.paper.M, case.N), float("nan"), device=X.device)
        errors[name] = _verified(launch(call, Y), W, call, config, f"{case.paper.name} {name}")
        contestants[name] = lambda launch=launch, Y=Y: launch(call, Y)
    contestants |= dense_calls(W, X)
    if csr:
        contestants["torch_csr"] = torch_csr_call(W, X)
    timings = interleaved([timer_for(c, X.device) for c in contestants.values()], "cuda")
    return {
        "problem": case.paper.number,
        "network": case.paper.network,
        "M": case.paper.M,
        "K": case.paper.K,
        "N": case.N,
        "batch": case.batch,
        "sparsity": case.paper.sparsity,
        "nnz": W.nnz,
        "t4_speedup": case.paper.t4_speedup,
        "floor_us": round(ceilings.floor_us(problem), 3),
        "choice": choose(problem, W.pattern_hash, facts).source,
        "heuristic": default_config(problem, facts).kernel,
        "config": {name: str(config) for name, config in configs.items()},
        "error_over_bound": errors,
        "us": {n: t.to_dict() for n, t in zip(contestants, timings, strict=True)},
    }


def _verified(
    Y: torch.Tensor, W: SparseMatrix, call: Call, config: KernelConfig, name: str
) -> float:
    ratio = call_ratio(Y, W, call, config)
    if not ratio <= 1.0:
        raise AssertionError(f"{name} {config}: error is {ratio:.2f} times the bound")
    return round(ratio, 4)


# -- compiling ahead, one process a core -----------------------------------------------------------


def compile_ahead(plans: Iterable[tuple[Case, KernelConfig]], device: Device) -> None:
    """Fill Triton's disk cache; the longest programs first."""
    jobs = sorted(
        {job for job in plans if FAMILIES[job[1].kernel].device_kind == "cuda"},
        key=lambda job: (job[1].kernel != "unrolled", -job[0].paper.M * job[0].paper.K),
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(_build, case, config, device) for case, config in jobs]
        for future in tqdm(futures, desc="compiling", unit="kernel"):
            future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _build(case: Case, config: KernelConfig, device: Device) -> None:
    W = case.paper.load()
    plan = plan_spmm(_problem(case, W), config, W.csr, device)
    plan.family.build(plan)
