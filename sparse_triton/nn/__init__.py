"""Layers with pruned weights: drop-in modules over ``sparse_triton.linear`` and its kin."""

from sparse_triton.nn.base import MODULES, SparseModule
from sparse_triton.nn.linear import SparseLinear

__all__ = ["MODULES", "SparseLinear", "SparseModule"]
