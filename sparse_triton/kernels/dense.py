"""Family ``dense``: the library call a user would make instead. Always a candidate."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel, Run
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.pattern import CSR
from sparse_triton.problem import Epilogue, Layout, SpmmProblem


class Dense(Family):
    name = "dense"
    device_kind = "any"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return None

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        return {}

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        return KernelConfig("dense")

    def build(self, plan: Plan) -> Kernel:
        return DenseKernel(plan)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.matmul(plan.csr.to_dense(), X, dtype=np.float32))


class DenseKernel:
    """``torch.matmul`` and element-wise calls, in the wider of the weight's and X's dtype."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def bind(self, device: torch.device) -> Run:
        problem, epilogue = self.plan.problem, self.plan.problem.epilogue
        B, M, K, N = problem.batch, problem.M, problem.K, problem.N
        x_dtype = getattr(torch, problem.x_dtype)
        dtype = torch.promote_types(x_dtype, getattr(torch, problem.w_dtype))
        W = _dense(self.plan.csr, device, dtype)
        # With terms to add, cuBLASLt refuses a token-major Y of one row.
        fused = B == 1 and (M > 1 or epilogue == Epilogue())
        plain = dtype == torch.float32 or epilogue == Epilogue() or fused
        direct = dtype == x_dtype and plain

        def shaped(t: torch.Tensor, rows: int, layout: Layout) -> torch.Tensor:
            return t.view(B, rows, N) if layout == "row" else t.view(B, N, rows).mT

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            x, y = shaped(X, K, problem.x_layout), shaped(Y, M, problem.y_layout)
            added = [] if bias is None else [bias[:, None]]
            if residual is not None:
                added.append(shaped(residual, M, problem.y_layout))
            if problem.nnz == 0:  # a zero weight does not multiply: NaN stays where it is
                product = torch.zeros(y.shape, dtype=torch.float32, device=y.device)
            elif direct and fused:
                _multiply_add(y[0], W, x[0], [t if t.dim() == 2 else t[0] for t in added])
                product, added = y, []
            elif direct:
                product = torch.matmul(W, x, out=y)
            else:
                product = torch.empty(y.shape, dtype=dtype, device=y.device)
                product = torch.matmul(W, x.to(dtype), out=product).float()
            for term in added:
                product += term
            if epilogue.activation is not None:
                product = activate(product, epilogue.activation)
            if product is not y:
                y.copy_(product)

        return run


def _multiply_add(
    y: torch.Tensor, W: torch.Tensor, x: torch.Tensor, added: list[torch.Tensor]
) -> None:
    """y [M, N] = W @ x + the sum of at most two terms, in as few launches as the library has."""
    match added:
        case []:
            torch.mm(W, x, out=y)
        case [bias] if bias.shape != y.shape and y.mT.is_contiguous():
            torch.addmm(bias[:, 0], x.mT, W.mT, out=y.mT)
        case [term]:
            torch.addmm(y.copy_(term), W, x, out=y)
        case [bias, residual]:
            torch.addmm(torch.add(residual, bias, out=y), W, x, out=y)


def activate(y: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation of a tensor that may be overwritten."""
    match activation:
        case "relu":
            return y.relu_()
        case "gelu":
            return torch.nn.functional.gelu(y)
    return torch.nn.functional.silu(y, inplace=True)


def _dense(csr: CSR, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[M, K], put together on the device: only the non-zeros travel."""
    M, K = csr.shape
    rows, columns = (torch.from_numpy(a).to(device) for a in (csr.rows, csr.column_indices))
    W = torch.zeros(M * K, device=device, dtype=dtype)
    W[rows.long() * K + columns] = torch.from_numpy(csr.values).to(device, dtype)
    return W.view(M, K)
