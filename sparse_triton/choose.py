"""Which configuration runs a problem, and where the choice came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.plan import default_config
from sparse_triton.problem import SpmmProblem

Source = Literal["stored", "nearest", "heuristic", "asked"]


@dataclass(frozen=True)
class Choice:
    """A configuration and its origin, in words a user can act on."""

    config: KernelConfig
    source: Source
    why: str


def choose(problem: SpmmProblem, pattern_hash: str, device: Device) -> Choice:
    """The configuration for a problem: today the heuristic."""
    config = default_config(problem, device)
    return Choice(config, "heuristic", "no tuned configuration is stored; see python -m autotune")
