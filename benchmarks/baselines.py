"""The dense and library calls we compare with, each the best that a user could write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sparse_triton import SparseMatrix

Call = Callable[[], object]


def dense_calls(W: SparseMatrix, X: torch.Tensor) -> dict[str, Call]:
    """cuBLAS by precision; fp32 and TF32 are one call under different settings."""
    w32 = W.to_dense().float()
    half, bf16 = torch.float16, torch.bfloat16
    return {
        "cublas_fp32": _mm(w32, X, "highest"),
        "cublas_tf32": _mm(w32, X, "high"),
        "cublas_fp16": _mm(w32.to(half), X.to(half), "highest"),
        "cublas_bf16": _mm(w32.to(bf16), X.to(bf16), "highest"),
    }


def _mm(w: torch.Tensor, x: torch.Tensor, precision: str) -> Call:
    out = torch.empty(w.shape[0], x.shape[1], dtype=x.dtype, device=x.device)

    def call() -> object:
        with matmul_precision(precision):
            return torch.mm(w, x, out=out)

    return call


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """``torch.set_float32_matmul_precision`` for one region: "highest" is fp32, "high" TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def torch_csr_call(W: SparseMatrix, X: torch.Tensor) -> Call:
    """cuSPARSE through torch.sparse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that its CSR support is beta
        csr = torch.sparse_csr_tensor(
            W.row_offsets.int(), W.column_indices.int(), W.values.to(X.dtype), W.shape
        )
    return lambda: torch.mm(csr, X)


def compiled_call(W: SparseMatrix, X: torch.Tensor) -> Call:
    """The float32 product as ``torch.compile(mode="max-autotune")`` finds it, without its graphs:
    all contestants are captured the same way."""
    w32 = W.to_dense().float()
    compiled = torch.compile(lambda x: w32 @ x, mode="max-autotune-no-cudagraphs")
    with matmul_precision("highest"):
        compiled(X)
    return lambda: compiled(X)
