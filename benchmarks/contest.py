"""One SpMM problem, everybody's call: ours verified, then all timed interleaved in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.ahead import Kernels
from autotune.lab import Judge, Lab, quiet
from autotune.timing import interleaved, timer_for
from benchmarks.baselines import Call as Contestant
from benchmarks.baselines import compiled_call, dense_calls, torch_csr_call
from benchmarks.ceilings import Ceilings
from benchmarks.problems import PaperProblem
from sparse_triton import SparseMatrix
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.heuristics import QUICKLY_COMPILED, default_config
from sparse_triton.kernel import Run
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import MANY_COLUMNS, SpmmProblem

Row = dict[str, Any]
OURS = ("unrolled", "gather", "tf32x3", "pairs", "dense")


@dataclass(frozen=True)
class Case:
    """One problem at one batch size; N of the product is ``paper.N * batch``."""

    paper: PaperProblem
    batch: int = 1

    @property
    def N(self) -> int:
        return self.paper.N * self.batch

    def problem(self, nnz: int, dtype: str = "float32") -> SpmmProblem:
        return SpmmProblem(self.paper.M, self.paper.K, self.N, nnz, x_dtype=dtype, w_dtype=dtype)


@dataclass(frozen=True)
class Options:
    """Who takes part beside ``spmm`` and cuBLAS.

    families      whose defaults are timed
    half          ``spmm`` with weight and X in float16
    csr           cuSPARSE, which is slow
    max_autotune  what ``torch.compile`` finds by searching
    """

    families: tuple[str, ...] = OURS
    half: bool = True
    csr: bool = True
    max_autotune: bool = False


def configs_of(
    case: Case, W: SparseMatrix, device: Device, options: Options
) -> dict[str, KernelConfig]:
    """By contestant: each family's default where it is legal and quick enough to compile, what
    ``spmm`` takes untuned and with what is stored, and with everything in float16."""
    problem, half = case.problem(W.nnz), case.problem(W.nnz, "float16")
    configs = {name: FAMILIES[name].default_config(problem, device) for name in options.families}
    configs["untuned"] = default_config(problem, device)
    long = W.nnz > QUICKLY_COMPILED and case.N < MANY_COLUMNS
    if long and configs["untuned"].kernel != "unrolled":  # long to compile, and not near
        configs.pop("unrolled", None)
    configs["spmm"] = choose(problem, W.pattern_hash, device).config
    legal = {n: c for n, c in configs.items() if why_not(problem, c, device) is None}
    if options.half:
        legal["spmm_fp16"] = choose(half, W.pattern_hash, device).config
    return legal


def half_of(W: SparseMatrix) -> SparseMatrix:
    """The same pattern with values in float16."""
    return SparseMatrix.from_csr(W.row_offsets, W.column_indices, W.values.half(), W.shape)


def rivals(
    case: Case, W: SparseMatrix, device: Device, options: Options
) -> dict[str, tuple[SparseMatrix, SpmmProblem, KernelConfig]]:
    """Our contestants as weight, problem and configuration."""
    found = {}
    for name, config in configs_of(case, W, device, options).items():
        own, dtype = (half_of(W), "float16") if name == "spmm_fp16" else (W, "float32")
        found[name] = (own, case.problem(W.nnz, dtype), config)
    return found


def row(case: Case, W: SparseMatrix, ceilings: Ceilings, options: Options, kernels: Kernels) -> Row:
    """Shapes; for each contestant ``us`` and quantiles, for ours configuration and error too."""
    device = W.device
    facts, problem = Device.of(device), case.problem(W.nnz)
    ours = rivals(case, W, facts, options)
    contestants: dict[str, Contestant] = {}
    errors = {}
    labs: dict[SpmmProblem, Lab] = {}
    with quiet(device):
        for name, (own, p, config) in ours.items():
            lab = labs[p] = labs.get(p) or Lab(own, p, device)
            run = kernels.take(own, p, config).bind(device)
            errors[name] = verified(lab, run, config, f"{case.paper.name} {name}")
            contestants[name] = lab.call(run)
    X = labs[problem].cases[0].X[0]
    contestants |= dense_calls(W, X)
    if options.csr:
        contestants["torch_csr"] = torch_csr_call(W, X)
    if options.max_autotune:
        contestants["max_autotune"] = compiled_call(W, X)
    timings = interleaved([timer_for(c, device) for c in contestants.values()], "cuda")
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
        "copy_us": round(problem.min_bytes / ceilings.bytes_per_us, 3),
        "choice": choose(problem, W.pattern_hash, facts).source,
        "config": {name: str(config) for name, (_, _, config) in ours.items()},
        "error_over_bound": errors,
        "compile": kernels.cost(*ours["untuned"]),
        "us": {n: t.to_dict() for n, t in zip(contestants, timings, strict=True)},
    }


def verified(lab: Judge[Any], run: Run, config: KernelConfig, name: str) -> float:
    """Its error over the bound: at most 1, or this is no result."""
    why, ratio = lab.verdict(run, config)
    if why:
        raise AssertionError(f"{name} {config}: {why}")
    return round(ratio, 4)
