"""Pruned LLM layers at decode time on a GPU: N = 1 ... 32 tokens, weights read from memory.

Per layer and sparsity several copies of every weight are used in turn, so that none is found in a
cache. What ``linear`` would take is verified against float64 with the derived bound before it is
timed; the dense side is the best of the library's calls. CUDA graphs, one run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import linear
from tqdm.auto import tqdm

from autotune.ahead import Kernels
from autotune.rotation import bound_copies, copies_of, in_turn
from autotune.timing import estimate, timer_for
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.executor import problem_of
from sparse_triton.heuristics import default_config
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import SpmmProblem
from sparse_triton.verify import call_ratio

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (28672, 8192), (8192, 28672))
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
COLUMNS = (1, 2, 4, 8, 16, 32)
SAMPLES = 9
READ_BYTES = 1 << 30
Row = dict[str, Any]
Calls = list[Callable[[], object]]


def run(
    shapes: Iterable[tuple[int, int]] = SHAPES,
    sparsities: Iterable[float] = SPARSITIES,
    columns: Sequence[int] = COLUMNS,
) -> Iterator[list[Row]]:
    """The rows of one weight after the other, one row an N; see ``_row``."""
    device = torch.device("cuda")
    cases = [(shape, s) for shape in shapes for s in sparsities]
    _compile(
        [_problem(M, K, N, round(M * K * (1 - s))) for (M, K), s in cases for N in columns],
        Device.of(device),
    )
    rate = read_rate(device)
    for (M, K), sparsity in tqdm(cases, desc="measuring", unit="weight"):
        w = pruned(M, K, sparsity, device)
        W = SparseMatrix.from_dense(w)
        yield [_row(w, W, sparsity, N, rate) for N in columns]


def _problem(M: int, K: int, N: int, nnz: int) -> SpmmProblem:
    dtype = {"x_dtype": "float16", "w_dtype": "float16"}
    return SpmmProblem(M, K, N, nnz, x_layout="column", y_layout="column", **dtype)


def _compile(problems: list[SpmmProblem], device: Device) -> None:
    """On all cores, into Triton's cache; the code does not depend on the pattern."""
    configs = ((p, default_config(p, device)) for p in problems)
    jobs = {(p.K, p.N, config): p for p, config in configs}
    with Kernels(device) as kernels:
        for (_, _, config), problem in jobs.items():
            kernels.order(_stand_in(problem), problem, config)
        kernels.compile()


def _stand_in(problem: SpmmProblem) -> SparseMatrix:
    """[M, K] with one non-zero a row."""
    M = problem.M
    offsets, columns = torch.arange(M + 1, dtype=torch.int32), torch.zeros(M, dtype=torch.int32)
    return SparseMatrix.from_csr(offsets, columns, torch.ones(M).half(), (M, problem.K))


def pruned(M: int, K: int, sparsity: float, device: torch.device, seed: int = 0) -> torch.Tensor:
    """[M, K] float16, normal, each element zero with the given probability."""
    draw = torch.Generator(device=device).manual_seed(seed)
    w = torch.randn(M, K, device=device, generator=draw, dtype=torch.float16)
    keep = torch.rand(M, K, device=device, generator=draw) >= sparsity
    return torch.where(keep, torch.where(w == 0, 1.0, w), 0.0)


def _row(w: torch.Tensor, W: SparseMatrix, sparsity: float, N: int, rate: float) -> Row:
    """Shape; µs of ours and of every dense call; bytes of the weight, and how fast they were read
    as a share of ``rate``."""
    M, K = W.shape
    X = torch.randn(N, K, device=w.device, dtype=torch.float16)
    call = Call(X, None, None, None, True)
    problem = problem_of(W, call)
    facts = Device.of(w.device)
    chosen = choose(problem, W.pattern_hash, facts)
    ours, nbytes, error = _ours(W, call, chosen.config)
    ours_us = _us(ours)
    dense = {name: _us(calls) for name, calls in _dense_calls(w, X)}
    # Again: the dense call is the best of several that hardly differ, taken at several moments.
    ours_us = min(ours_us, _us(ours))
    best = min(dense, key=lambda name: dense[name])
    if sparsity == 0.5:
        dense |= _semi_structured_us(w, X)
    return {
        "M": M,
        "K": K,
        "N": N,
        "sparsity": sparsity,
        "nnz": W.nnz,
        "config": str(chosen.config),
        "choice": chosen.source,
        "us": round(ours_us, 3),
        "dense_us": {name: round(us, 3) for name, us in dense.items()},
        "dense": best,
        "speedup": round(dense[best] / ours_us, 4),
        "bytes": nbytes,
        "of_read_rate": round(nbytes / ours_us / rate, 4),
        "byte_floor": round(byte_floor(W), 4),
        "error_over_bound": error,
    }


def read_rate(device: torch.device) -> float:
    """Bytes a µs at which ``torch.sum`` reads a GiB: what a kernel that only reads can hope for. (A
    copy is slower: memory turns from reading to writing and back.)"""
    source = torch.empty(READ_BYTES // 4, device=device).normal_()
    return READ_BYTES / _us([source.sum])


def byte_floor(W: SparseMatrix) -> float:
    """How many times fewer bytes a bitmap and 16-bit values have than the dense weight."""
    M, K = W.shape
    return 2 * M * K / (2 * W.nnz + M * K / 8)


def _ours(W: SparseMatrix, call: Call, config: KernelConfig) -> tuple[Calls, int, float]:
    """(calls on copies of the weight, its bytes, error over bound) of a configuration."""
    problem = problem_of(W, call)
    device = call.X.device
    plan = plan_spmm(problem, config, W.csr, Device.of(device))
    runs, nbytes = bound_copies(plan.family.build(plan), problem, device)
    Y = torch.full((problem.N, problem.M), float("nan"), device=device, dtype=call.X.dtype)
    runs[0](call.X, Y, None, None)
    error = call_ratio(Y, W, call, config)
    if not error <= 1.0:
        raise AssertionError(f"{problem} {config}: error is {error:.2f} times the bound")

    def launch(run: Any) -> Callable[[], object]:
        return lambda: run(call.X, Y, None, None)

    return [launch(run) for run in runs], nbytes, round(error, 4)


def _us(calls: Calls) -> float:
    timer = timer_for(in_turn(calls), torch.device("cuda"))  # type: ignore[arg-type]
    return estimate(timer.samples(SAMPLES), "cuda").us


def _dense_calls(w: torch.Tensor, X: torch.Tensor) -> Iterable[tuple[str, Calls]]:
    """Every way to write the product in PyTorch, in both 16-bit dtypes, copies of W each."""
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        x = X.to(dtype)
        xT = x.mT.contiguous()
        copies = [w.to(dtype, copy=True) for _ in range(copies_of(2 * w.numel()))]
        yield f"linear {name}", [lambda v=v, x=x: linear(x, v) for v in copies]
        yield f"mm {name}", [lambda v=v, x=xT: torch.mm(v, x) for v in copies]
        if len(X) == 1:
            yield f"mv {name}", [lambda v=v, x=x[0]: torch.mv(v, x) for v in copies]
        del copies


def _semi_structured_us(w: torch.Tensor, X: torch.Tensor) -> dict[str, float]:
    """torch's 2:4 format on a weight pruned to it; nothing where it cannot run or be captured."""
    keep = torch.tensor([True, True, False, False], device=w.device).repeat(w.shape[1] // 4)
    dense = torch.where(keep, torch.where(w == 0, 1.0, w), 0.0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces a prototype
            copies = [
                torch.sparse.to_sparse_semi_structured(dense)
                for _ in range(copies_of(w.numel() * 9 // 8))
            ]
            linear(X, copies[0])
            return {"2:4 fp16": _us([lambda v=v: linear(X, v) for v in copies])}
    except (RuntimeError, NotImplementedError):
        return {}
