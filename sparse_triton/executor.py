"""From a call's tensors to a launch. Everything that can be decided once is decided once.

``prepare`` checks, plans, builds and binds for one set of shapes and options; the launch it returns
is remembered with the weight, so that the next call costs a dictionary look-up, an output
allocation and a launch.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch

from sparse_triton.call import Call
from sparse_triton.choose import choose, tune_first
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device, refuse_capture
from sparse_triton.errors import DeviceError
from sparse_triton.kernels.dense_conv import without_search
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Problem, SpmmProblem

Tensor = torch.Tensor
AnyCall = Call | ConvCall
Launch = Callable[[Any, Tensor | None], Tensor]


def execute(W: SparseMatrix, call: AnyCall, out: Tensor | None = None) -> Tensor:
    """Run the call; plan, build and bind first if it is the first of its kind."""
    return launch_of(W, call)(call, out)


def launch_of(W: SparseMatrix, call: AnyCall) -> Launch:
    """What runs calls like this one. A call whose like has run before breaks no law."""
    try:
        key = call.key()
    except RuntimeError:  # a sparse tensor has no strides
        call.check(W.shape)
        raise
    if _watched is not None:
        _watched.append((W, problem_of(W, call)))
        with without_search():
            return prepare(W, call, KernelConfig("dense"))
    launch = W.launchers.get(key)
    if launch is None:
        launch = W.launchers[key] = prepare(W, call)
    return launch


Seen = list[tuple[SparseMatrix, Problem]]
_watched: Seen | None = None


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Every product and convolution of the block, in any thread, is noted and done densely:
    nothing is compiled or tuned for it."""
    global _watched
    before, _watched = _watched, []
    try:
        yield _watched
    finally:
        _watched = before


_prepared: weakref.WeakSet[SparseMatrix] = weakref.WeakSet()


def forget(pattern_hash: str | None = None) -> None:
    """Drop the launches of one pattern, or all: the next call looks its configuration up again.

    A captured CUDA graph may still run the old ones, so they live as long as the weight.
    """
    for W in list(_prepared):
        if pattern_hash in (None, W.pattern_hash) and W.launchers:
            W.retired.append(dict(W.launchers))
            W.launchers.clear()


@overload
def problem_of(W: SparseMatrix, call: Call) -> SpmmProblem: ...
@overload
def problem_of(W: SparseMatrix, call: AnyCall) -> Problem: ...
def problem_of(W: SparseMatrix, call: AnyCall) -> Problem:
    """The problem behind a call."""
    return call.problem(W.shape, W.nnz, str(W.dtype).removeprefix("torch."))


def prepare(W: SparseMatrix, call: AnyCall, config: KernelConfig | None = None) -> Launch:
    """Check, plan, build and bind. ``config`` overrides the choice (tuner, tests).

    Raises the ``InputError`` of the first broken law, ``ConfigError`` for an impossible ``config``,
    ``CaptureError`` inside a CUDA graph capture.
    """
    call.check(W.shape)
    device = call.X.device
    if device != W.device:
        raise DeviceError(f"X is on {device}, W on {W.device}; use W.to({str(device)!r})")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"kernels run on cpu and cuda, X is on {device}")
    refuse_capture(device, "this call was never made before")
    problem = problem_of(W, call)
    facts = Device.of(device)
    if config is None:
        tune_first(W, problem, device)
        config = choose(problem, W.pattern_hash, facts).config
        _prepared.add(W)
    kernel = W.built.pop((problem, config), None)
    if kernel is None:
        plan = plan_spmm(problem, config, W.csr, facts)
        kernel = plan.family.build(plan)
    run = kernel.bind(device)
    if device.type == "cuda":  # what was uploaded is there before any other stream launches
        torch.cuda.current_stream(device).synchronize()
    return call.launcher(run, W.shape[0])
