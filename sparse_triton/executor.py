"""From a call's tensors to a launch. Everything that can be decided once is decided once.

``prepare`` checks, plans, builds and binds for one set of shapes and options; the launch it returns
is remembered with the weight, so that the next call costs a dictionary look-up, an output
allocation and a launch.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sparse_triton.check import check_call
from sparse_triton.choose import choose, tune_first
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, refuse_capture
from sparse_triton.errors import DeviceError
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, Layout, SpmmProblem

Tensor = torch.Tensor
ALIGNMENT = 16


class Call(NamedTuple):
    """One call's tensors and options."""

    X: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str | None
    token_major: bool

    def key(self) -> tuple[Any, ...]:
        """Everything a launch depends on besides the weight."""
        X, bias, residual, activation, token_major = self
        return (
            X.shape, X.stride(), X.dtype, X.device, X.data_ptr() % ALIGNMENT,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.device),
            None if residual is None else _form(residual),
            activation, token_major,
        )  # fmt: skip


def _form(t: Tensor) -> tuple[Any, ...]:
    return t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % ALIGNMENT


Launch = Callable[[Call, Tensor | None], Tensor]


def execute(W: SparseMatrix, call: Call, out: Tensor | None = None) -> Tensor:
    """Run the call; plan, build and bind first if it is the first of its kind."""
    try:
        key = call.key()
    except RuntimeError:  # a sparse tensor has no strides
        check_call(W.shape, *call)
        raise
    launch = W.launchers.get(key)
    if launch is None:
        launch = W.launchers[key] = prepare(W, call)
    return launch(call, out)


_prepared: weakref.WeakSet[SparseMatrix] = weakref.WeakSet()


def forget(pattern_hash: str | None = None) -> None:
    """Drop the launches of one pattern, or all: the next call looks its configuration up again.

    A captured CUDA graph may still run the old ones, so they live as long as the weight.
    """
    for W in list(_prepared):
        if pattern_hash in (None, W.pattern_hash) and W.launchers:
            W.retired.append(dict(W.launchers))
            W.launchers.clear()


def problem_of(W: SparseMatrix, call: Call) -> SpmmProblem:
    """The problem behind a call: leading dimensions are the batch, tokens are columns."""
    X = call.X
    x_layout: Layout = "row"
    if call.token_major:
        batch, N, x_layout = 1, math.prod(X.shape[:-1]), "column"
    else:
        batch, N = math.prod(X.shape[:-2]), X.shape[-1]
        if not X.is_contiguous() and X.mT.is_contiguous():
            x_layout = "column"
    return SpmmProblem(
        M=W.shape[0],
        K=W.shape[1],
        N=N,
        nnz=W.nnz,
        batch=batch,
        x_dtype=str(X.dtype).removeprefix("torch."),
        w_dtype=str(W.dtype).removeprefix("torch."),
        x_layout=x_layout,
        y_layout="column" if call.token_major else "row",
        epilogue=Epilogue(call.bias is not None, call.residual is not None, call.activation),
    )


def prepare(W: SparseMatrix, call: Call, config: KernelConfig | None = None) -> Launch:
    """Check, plan, build and bind. ``config`` overrides the choice (tuner, tests).

    Raises the ``InputError`` of the first broken law, ``ConfigError`` for an impossible ``config``,
    ``CaptureError`` inside a CUDA graph capture.
    """
    check_call(W.shape, *call)
    device = call.X.device
    if device != W.device:
        raise DeviceError(f"X is on {device}, W on {W.device}; use W.to({str(device)!r})")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"spmm runs on cpu and cuda, X is on {device}")
    refuse_capture(device, "this call was never made before")
    problem = problem_of(W, call)
    facts = Device.of(device)
    if config is None:
        tune_first(W, problem, device)
        config = choose(problem, W.pattern_hash, facts).config
        _prepared.add(W)
    plan = plan_spmm(problem, config, W.csr, facts)
    run = plan.family.build(plan).bind(device)
    if device.type == "cuda":  # what was uploaded is there before any other stream launches
        torch.cuda.current_stream(device).synchronize()
    return _launch(run, problem, call)


def _launch(run: Callable[..., None], problem: SpmmProblem, call: Call) -> Launch:
    """The steps between a call and its kernel, each only where it is needed."""
    X, bias, residual, _, token_major = call
    shape = _y_shape(problem.M, X.shape, token_major)
    adapt_x = _adapter(X, mT=problem.x_layout == "column" and not token_major)
    adapt_residual = None if residual is None else _adapter(residual)
    adapt_bias = None if bias is None or bias.is_contiguous() else Tensor.contiguous
    dtype, device = X.dtype, X.device
    empty = functools.partial(torch.empty, shape, dtype=dtype, device=device)
    nothing = math.prod(shape) == 0

    def launch(call: Call, out: Tensor | None) -> Tensor:
        X, bias, residual, _, _ = call
        if adapt_x is not None:
            X = adapt_x(X)
        if adapt_bias is not None and bias is not None:
            bias = adapt_bias(bias)
        if adapt_residual is not None and residual is not None:
            residual = adapt_residual(residual)
        direct = out is None or (out.is_contiguous() and out.data_ptr() % ALIGNMENT == 0)
        Y = out if out is not None and direct else empty()
        if not nothing:
            run(X, Y, bias, residual)
        return Y if out is None or direct else out.copy_(Y)

    return launch


def _y_shape(M: int, x_shape: torch.Size, token_major: bool) -> tuple[int, ...]:
    return (*x_shape[:-1], M) if token_major else (*x_shape[:-2], M, x_shape[-1])


def _adapter(t: Tensor, mT: bool = False) -> Callable[[Tensor], Tensor] | None:
    """What makes ``t`` dense and aligned; None where it is already."""
    if mT:
        return lambda t: _aligned(t.mT)
    if t.is_contiguous() and t.data_ptr() % ALIGNMENT == 0:
        return None
    return _aligned


def _aligned(t: Tensor) -> Tensor:
    t = t.contiguous()
    return t if t.data_ptr() % ALIGNMENT == 0 else t.clone()
