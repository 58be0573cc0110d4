"""``SparsifyConfig``: what is converted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparse_triton.errors import InputError


@dataclass(frozen=True)
class SparsifyConfig:
    """What ``sparsify_`` converts.

    min_sparsity    least share of zeros of a weight, in [0, 1]
    min_gain        least expected speed-up over dense, where the shapes are known (example inputs);
                    0: convert whatever is sparse enough, for ``warmup`` to decide
    fuse            fold BatchNorm, absorb activation, residual and pool, and choose memory formats
                    between Linear layers, where it can be traced
    between_groups  count the zeros between a convolution's groups too. A depthwise convolution is
                    sparse in that sense: worth it for what is fused, and where tuning finds a
                    kernel

    Raises ``InputError`` for a value outside its range.
    """

    min_sparsity: float = 0.7
    min_gain: float = 1.0
    fuse: bool = True
    between_groups: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_sparsity <= 1.0:
            raise InputError(f"min_sparsity must lie in [0, 1], got {self.min_sparsity}")
        if not (self.min_gain >= 0.0 and math.isfinite(self.min_gain)):
            raise InputError(f"min_gain must be a finite number >= 0, got {self.min_gain}")
