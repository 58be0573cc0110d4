"""Finds the best kernel configuration of pruned weights, verifies it, and keeps it on disk.

>>> import autotune
>>> autotune.tune(W, N=...)  # doctest: +SKIP
"""

from autotune.budget import BUDGETS, Budget
from autotune.tune import tune
from autotune.tuning import TuneResult

__all__ = ["BUDGETS", "Budget", "TuneResult", "tune"]
