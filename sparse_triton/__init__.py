"""Inference with pruned neural networks: kernels specialised on the weight's sparsity pattern.

>>> import torch, sparse_triton as st
>>> W = torch.randn(64, 64) * (torch.rand(64, 64) < 0.1)
>>> Y = st.spmm(W, torch.randn(64, 100))
"""

from sparse_triton import errors, nn
from sparse_triton.conv_ops import conv2d, conv2d_pool
from sparse_triton.convert import (
    Report,
    SparsifyConfig,
    advise,
    densify_,
    sparsify,
    sparsify_,
    warmup,
)
from sparse_triton.explain import Explanation, explain
from sparse_triton.filter import SparseFilter
from sparse_triton.io import load, save
from sparse_triton.matrix import SparseMatrix
from sparse_triton.ops import linear, spmm
from sparse_triton.prune import prune_

__version__ = "0.1.0"
__all__ = [
    "Explanation",
    "Report",
    "SparseFilter",
    "SparseMatrix",
    "SparsifyConfig",
    "__version__",
    "advise",
    "conv2d",
    "conv2d_pool",
    "densify_",
    "errors",
    "explain",
    "linear",
    "load",
    "nn",
    "prune_",
    "save",
    "sparsify",
    "sparsify_",
    "spmm",
    "warmup",
]
