"""Layers with pruned weights: drop-in modules over ``linear``, ``conv2d`` and ``conv2d_pool``."""

from sparse_triton.nn.base import MODULES, SparseModule
from sparse_triton.nn.conv import SparseConv2d, SparseConvPool2d
from sparse_triton.nn.linear import SparseLinear
from sparse_triton.nn.norm import FormattedLayerNorm

__all__ = [
    "MODULES",
    "FormattedLayerNorm",
    "SparseConv2d",
    "SparseConvPool2d",
    "SparseLinear",
    "SparseModule",
]
