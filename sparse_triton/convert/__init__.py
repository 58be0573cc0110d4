"""Whole models: ``sparsify_``, ``densify_``, ``advise``."""

from sparse_triton.convert.bitmask import load_bitmask
from sparse_triton.convert.config import SparsifyConfig
from sparse_triton.convert.install import install_
from sparse_triton.convert.report import Report, Row
from sparse_triton.convert.swap import advise, densify_, sparsify, sparsify_
from sparse_triton.convert.warmup import warmup

__all__ = [
    "Report",
    "Row",
    "SparsifyConfig",
    "advise",
    "densify_",
    "install_",
    "load_bitmask",
    "sparsify",
    "sparsify_",
    "warmup",
]
