"""Finds the best kernel configuration of pruned weights, verifies it, and keeps it on disk.

>>> import tempfile, torch, autotune
>>> W = torch.randn(32, 32) * (torch.rand(32, 32) < 0.1)
>>> found = autotune.tune(W, 64, store=tempfile.mkdtemp(), device="cpu", seconds=0.5)

``tune`` is for one weight, ``warmup`` for a model; ``python -m autotune`` is both and more.
"""

from autotune.budget import BUDGETS, Budget
from autotune.tune_model import WarmupResult, warmup, warmup_problems
from autotune.tune_weight import tune
from autotune.tuning import TuneResult

__all__ = ["BUDGETS", "Budget", "TuneResult", "WarmupResult", "tune", "warmup", "warmup_problems"]
