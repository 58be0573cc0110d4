"""Family ``dense`` of convolutions: the library calls a user would make instead."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.filter import dense_filter
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.dense import activate
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.problem import ConvProblem, Pool

F = torch.nn.functional
Convolve = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
FORMATS = {"row": torch.contiguous_format, "column": torch.channels_last}

_searches = contextvars.ContextVar("_searches", default=True)  # each thread has its own


@contextlib.contextmanager
def without_search() -> Iterator[None]:
    """Calls bound here take cuDNN's own guess: it measures nothing, which can take seconds."""
    before = _searches.set(False)
    try:
        yield
    finally:
        _searches.reset(before)


class DenseConv(Family[ConvProblem]):
    name = "dense"
    device_kind = "any"

    def why_not(self, problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
        return None

    def space(self, problem: ConvProblem, device: Device) -> Space:
        return {}

    def default_config(self, problem: ConvProblem, device: Device) -> KernelConfig:
        return KernelConfig("dense")

    def build(self, plan: Plan[ConvProblem]) -> Kernel:
        return DenseConvKernel(plan)

    def reference(self, plan: Plan[ConvProblem], X: NDArray[np.float32]) -> NDArray[np.float32]:
        W = torch.from_numpy(_filter(plan))
        y = _library_call(plan.problem, W)(torch.from_numpy(X)[None], None)
        return np.asarray(y[0].numpy())


class DenseConvKernel:
    """``conv2d`` and element-wise calls, in the wider of the weight's and X's dtype; cuDNN's one
    call for convolution, bias, residual and ReLU where it has it.

    On a GPU cuDNN measures its algorithms at the first call (``benchmark=True``) and computes
    float32 in TF32 where ``torch.backends.cudnn`` allows it: by default it does.
    """

    def __init__(self, plan: Plan[ConvProblem]) -> None:
        self.plan = plan

    def bind(self, device: torch.device) -> Run:
        problem, epilogue = self.plan.problem, self.plan.problem.epilogue
        x_dtype = getattr(torch, problem.x_dtype)
        dtype = torch.promote_types(x_dtype, getattr(torch, problem.w_dtype))
        memory_format = FORMATS[problem.x_layout]
        W = torch.from_numpy(_filter(self.plan)).to(device, dtype)
        W = W.contiguous(memory_format=memory_format)
        convolve, fused = _library_call(problem, W), _fused_call(problem, W)
        y_format = FORMATS[problem.y_layout]

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> torch.Tensor:
            y = None if fused is None else fused(X, bias, residual)
            if y is not None:
                y = y if problem.pool is None else pool_of(y, problem.pool)
                return y.contiguous(memory_format=y_format)
            if problem.nnz == 0:  # a zero weight does not multiply: NaN stays where it is
                shape = (problem.batch, problem.M, problem.P, problem.Q)
                y = torch.zeros(shape, dtype=dtype, device=Y.device).to(memory_format=memory_format)
                y = y if bias is None else y.add_(bias[:, None, None])
            else:
                y = convolve(X.to(dtype), None if bias is None else bias.to(dtype))
            if residual is not None:
                y += residual
            if epilogue.activation is not None:
                y = activate(y, epilogue.activation)
            if problem.pool is not None:
                y = pool_of(y, problem.pool)
            return y.to(x_dtype).contiguous(memory_format=y_format)

        return run


def roundings(problem: ConvProblem) -> int:
    """Roundings to a 16-bit type on the way: each library call stores its result."""
    epilogue = problem.epilogue
    curved = epilogue.activation not in (None, "relu")
    averaged = problem.pool is not None and problem.pool.kind == "avg"
    return 1 + epilogue.bias + epilogue.residual + curved + averaged


def pool_of(y: torch.Tensor, pool: Pool) -> torch.Tensor:
    """PyTorch's own pool, of the result or of an error bound."""
    if pool.kind == "max":
        return F.max_pool2d(y, pool.kernel, pool.stride, pool.padding)
    return F.avg_pool2d(y, pool.kernel, pool.stride, pool.padding)


def _filter(plan: Plan[ConvProblem]) -> NDArray[np.float32]:
    p = plan.problem
    return dense_filter(plan.csr, (p.M, p.C // p.groups, p.R, p.S), p.groups)


def _library_call(problem: ConvProblem, W: torch.Tensor) -> Convolve:
    """The convolution of an X of W's dtype, and bias."""
    top, bottom, left, right = problem.padding
    uneven = _uneven(problem)
    border = (0, 0) if uneven else (top, left)
    depthwise, search = _depthwise(problem), _searches.get()

    def convolve(X: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if uneven:
            X = F.pad(X, (left, right, top, bottom))
        if X.device.type == "cuda" and torch.backends.cudnn.enabled and not depthwise:
            tf32 = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
            y: torch.Tensor = torch.cudnn_convolution(
                X, W, border, problem.stride, problem.dilation, problem.groups,
                benchmark=search, deterministic=False, allow_tf32=tf32,
            )  # fmt: skip
            return y if bias is None else y.add_(bias[:, None, None])
        return F.conv2d(X, W, bias, problem.stride, border, problem.dilation, problem.groups)

    return convolve


def _uneven(problem: ConvProblem) -> bool:
    top, bottom, left, right = problem.padding
    return (top, left) != (bottom, right)


def _depthwise(problem: ConvProblem) -> bool:
    """PyTorch has kernels of its own for these."""
    return 1 < problem.groups == problem.C


Fused = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor | None]


def fuses(problem: ConvProblem) -> bool:
    """Whether cuDNN may have all but the pool of this convolution in one call."""
    epilogue = problem.epilogue
    plain = problem.nnz > 0 and not _uneven(problem)
    single = problem.x_dtype == problem.w_dtype == "float32"  # elsewhere cuDNN's search is long
    return plain and single and epilogue.activation == "relu" and not _depthwise(problem)


def _fused_call(problem: ConvProblem, W: torch.Tensor) -> Fused | None:
    """That call; None from it where cuDNN has no kernel for it after all."""
    available = W.device.type == "cuda" and torch.backends.cudnn.enabled
    if not (available and _searches.get() and fuses(problem)):
        return None
    top, _, left, _ = problem.padding
    how = (problem.stride, (top, left), problem.dilation, problem.groups)
    works: list[bool] = []

    def call(
        X: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        if residual is None:
            y: torch.Tensor = torch.cudnn_convolution_relu(X, W, bias, *how)
        else:
            y = torch.cudnn_convolution_add_relu(X, W, residual, 1.0, bias, *how)
        return y

    def fused(
        X: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor | None:
        if not works:  # the first time cuDNN measures; what it found is used from then on
            before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
            try:
                call(X, bias, residual)
            except RuntimeError:
                works.append(False)
            else:
                works.append(True)
            finally:
                torch.backends.cudnn.benchmark = before
        return call(X, bias, residual) if works[0] else None

    return fused
