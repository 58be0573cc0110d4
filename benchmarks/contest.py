"""One SpMM problem, everybody's call: ours verified, then all timed interleaved in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from autotune.timing import interleaved, timer_for
from benchmarks.baselines import Call as Contestant
from benchmarks.baselines import compiled_call, dense_calls, torch_csr_call
from benchmarks.ceilings import Ceilings
from benchmarks.problems import PaperProblem
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.executor import prepare
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import QUICKLY_COMPILED, default_config, why_not
from sparse_triton.problem import MANY_COLUMNS, SpmmProblem
from sparse_triton.verify import call_ratio

Row = dict[str, Any]
OURS = ("unrolled", "gather", "dense")


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
    """By contestant: each family's default where it is legal and quick enough to compile, and what
    ``spmm`` takes, in float32 and with everything in float16."""
    problem, half = case.problem(W.nnz), case.problem(W.nnz, "float16")
    configs = {name: FAMILIES[name].default_config(problem, device) for name in options.families}
    if W.nnz > QUICKLY_COMPILED and case.N < MANY_COLUMNS:  # long to compile, and never near
        configs.pop("unrolled", None)
    configs["spmm"] = choose(problem, W.pattern_hash, device).config
    legal = {n: c for n, c in configs.items() if why_not(problem, c, device) is None}
    if options.half:
        legal["spmm_fp16"] = choose(half, W.pattern_hash, device).config
    return legal


def half_of(W: SparseMatrix) -> SparseMatrix:
    """The same pattern with values in float16."""
    return SparseMatrix.from_csr(W.row_offsets, W.column_indices, W.values.half(), W.shape)


def row(case: Case, W: SparseMatrix, ceilings: Ceilings, options: Options) -> Row:
    """Shapes; for each contestant ``us`` and quantiles, for ours configuration and error too."""
    X = torch.randn(case.paper.K, case.N, device=W.device)
    facts = Device.of(X.device)
    configs = configs_of(case, W, facts, options)
    contestants: dict[str, Contestant] = {}
    errors = {}
    for name, config in configs.items():
        contestants[name], errors[name] = _ours(case, W, X, name, config)
    contestants |= dense_calls(W, X)
    if options.csr:
        contestants["torch_csr"] = torch_csr_call(W, X)
    if options.max_autotune:
        contestants["max_autotune"] = compiled_call(W, X)
    timings = interleaved([timer_for(c, X.device) for c in contestants.values()], "cuda")
    problem = case.problem(W.nnz)
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


def _ours(
    case: Case, W: SparseMatrix, X: torch.Tensor, name: str, config: KernelConfig
) -> tuple[Contestant, float]:
    """The call, and its error over the bound: at most 1, or this is no result."""
    if name == "spmm_fp16":
        W, X = half_of(W), X.half()
    call = Call(X, None, None, None, False)
    launch = prepare(W, call, config)
    Y = torch.full((case.paper.M, case.N), float("nan"), dtype=X.dtype, device=X.device)
    ratio = call_ratio(launch(call, Y), W, call, config)
    if not ratio <= 1.0:
        raise AssertionError(f"{case.paper.name} {name} {config}: error {ratio:.2f} x the bound")
    return lambda: launch(call, Y), round(ratio, 4)
