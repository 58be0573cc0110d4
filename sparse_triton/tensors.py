"""What an executor asks of a tensor, and makes of it: form, density, alignment."""

from __future__ import annotations

from typing import Any

import torch

ALIGNMENT = 16  # bytes


def form(t: torch.Tensor) -> tuple[Any, ...]:
    """Everything a launch depends on, but for the values."""
    return t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % ALIGNMENT


def aligned(t: torch.Tensor) -> torch.Tensor:
    """A dense tensor itself, or a copy where its address is not a multiple of ``ALIGNMENT``."""
    return t if t.data_ptr() % ALIGNMENT == 0 else t.clone()
