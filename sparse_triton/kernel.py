"""What a built kernel is, whatever family built it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

Run = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor | None
]


class Kernel(Protocol):
    """A built kernel. ``bind`` uploads what it reads and returns ``run(X, Y, bias, residual)``.

    All tensors are dense and 16-byte aligned. X is [batch, K, N] (layout "row") or [batch, N, K]
    ("column"), Y and residual [batch, M, N] or [batch, N, M], with any split of the leading
    dimension; bias is [M]. Of a convolution, X [batch, C, H, W], Y [batch, M, P, Q] (smaller where
    pooled) and residual are contiguous ("row") or channels-last ("column").

    ``run`` fills Y and returns None, or leaves it alone and returns its equal in new memory, which
    saves a library call that cannot write to Y a copy. It neither synchronises nor compiles, so it
    may be captured in a CUDA graph.
    """

    def bind(self, device: torch.device) -> Run: ...
