"""``tune``: the best configuration of one weight for one problem, found, verified and stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from os import PathLike

import torch

from autotune.bench import LiveBench
from autotune.budget import Budget, as_budget
from autotune.compile_pool import CompilePool
from autotune.tuning import Study, TuneResult, Tuning
from sparse_triton.device import Device
from sparse_triton.errors import CaptureError, DeviceError, InputError, ShapeError
from sparse_triton.filter import SparseFilter
from sparse_triton.kernels import FAMILIES
from sparse_triton.matrix import SparseMatrix
from sparse_triton.problem import Problem, SpmmProblem
from sparse_triton.records import Key, Trial
from sparse_triton.store import Store, as_store
from sparse_triton.weights import as_matrix


def tune(
    W: SparseMatrix | SparseFilter | torch.Tensor,
    problem: int | Problem,
    budget: str | Budget = "quick",
    store: Store | str | PathLike[str] | None = None,
    *,
    device: torch.device | str | None = None,
    sampler: str | None = None,
    seconds: float | None = None,
    jobs: int | None = None,
    compile_timeout_s: float | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial], None] | None = None,
) -> TuneResult:
    """Search kernel family and launch parameters of ``W @ X``; the winner is used from then on.

    W        [M, K] pruned; or a convolution's ``SparseFilter``, with a ``ConvProblem``
    problem  N, the columns of a row-major X [K, N] of W's dtype; or the problem in full
    budget   "quick" (at most 40 measured configurations), "full" (200), "exhaustive"
    store    where results are kept (default: ``sparse_triton.store.default_store()``)
    device   "cuda", "cuda:1", "cpu"; default: a GPU if there is one
    sampler  "tpe" (default), "random", "exhaustive"
    seconds  wall time after which nothing new is tried
    jobs     compile processes (GPU only; default: all cores but one)
    compile_timeout_s  longest compilation of one configuration; default: the budget's

    Every candidate is verified against float64 before it is timed; dense is always a candidate.
    Interrupted, it goes on where it was: each finished trial is stored at once. A second call with
    the same budget measures nothing.

    Raises ``ShapeError`` for a problem that is not W's, ``InputError`` for unknown names,
    ``DeviceError`` without the device, ``CaptureError`` inside a CUDA graph capture.

    >>> import tempfile, torch, autotune
    >>> W = torch.randn(32, 32) * (torch.rand(32, 32) < 0.1)
    >>> found = autotune.tune(W, 64, store=tempfile.mkdtemp(), device="cpu", seconds=1)
    >>> found.us <= found.dense_us
    True
    """
    where = as_device(device)
    matrix = W.matrix if isinstance(W, SparseFilter) else as_matrix(W)
    full = as_problem(matrix, problem)
    key = Key(full, matrix.pattern_hash)
    limits = as_budget(budget, sampler, seconds, compile_timeout_s)
    study = Study(key, Device.of(where), as_store(store), limits, seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(study.store.lock(key, study.device))
        pool = None
        if needs_compiling(study.device):
            pool = stack.enter_context(CompilePool(jobs, limits.compile_s))
        tuning = Tuning(study, LiveBench(matrix, full, where, pool), on_trial)
        while tuning.step():
            pass
        return tuning.finish()


def as_device(device: torch.device | str | None) -> torch.device:
    """A device that is there, with its index; never inside a graph capture."""
    cuda = torch.cuda.is_available()
    where = torch.device(device if device is not None else "cuda" if cuda else "cpu")
    if where.type not in ("cpu", "cuda"):
        raise DeviceError(f"tuning runs on cpu and cuda, got {where}")
    if where.type == "cpu":
        return where
    if not cuda:
        raise DeviceError(f"{where} was asked for, PyTorch sees no GPU; use device='cpu'")
    if torch.cuda.is_current_stream_capturing():
        raise CaptureError("nothing can be tuned inside a CUDA graph capture; tune before it")
    return where if where.index is not None else torch.device("cuda", torch.cuda.current_device())


def as_problem(W: SparseMatrix, problem: int | Problem) -> Problem:
    """The problem in full, checked against the weight."""
    dtype = str(W.dtype).removeprefix("torch.")
    M, K = W.shape
    if isinstance(problem, Problem):
        if (problem.M, problem.K, problem.nnz, problem.w_dtype) != (M, K, W.nnz, dtype):
            raise ShapeError(f"the problem ({problem}) is not one of W, which is {W}")
        return problem
    if not isinstance(problem, int) or isinstance(problem, bool) or problem < 1:
        raise InputError(
            f"problem must be a SpmmProblem, a ConvProblem or a positive N, got {problem!r}"
        )
    return SpmmProblem(M, K, problem, W.nnz, x_dtype=dtype, w_dtype=dtype)


def needs_compiling(device: Device) -> bool:
    """Whether any family's kernels on this device are compiled ahead."""
    return any(f.device_kind == "cuda" == device.kind for f in FAMILIES.values())
