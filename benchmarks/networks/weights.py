"""Pruned weights for the networks: published patterns put into layers, values that keep scale."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sparse_triton import SparseMatrix
from sparse_triton.errors import ShapeError

Layer = nn.Linear | nn.Conv2d
SPARSITY = 0.9


def normal_values(keep: torch.Tensor, seed: int) -> torch.Tensor:
    """Normal values where ``keep`` [M, K] is set, zeros elsewhere, scaled so that a layer with ReLU
    keeps the size of its input (He et al. 2015, with the non-zeros of a row as its inputs)."""
    values = torch.randn(keep.shape, generator=torch.Generator().manual_seed(seed))
    values[values == 0] = 1.0
    scale = (2 * keep.shape[0] / max(1, int(keep.sum()))) ** 0.5
    return (values * scale).masked_fill_(~keep, 0.0)


def pattern(path: Path) -> torch.Tensor:
    """A published pattern as booleans [M, K]."""
    return SparseMatrix.from_smtx(path, "ones").to_dense() != 0


def drawn_pattern(M: int, K: int, seed: int) -> torch.Tensor:
    """Every place [M, K] kept with probability 0.1: where the largest of iid weights lie."""
    return torch.rand(M, K, generator=torch.Generator().manual_seed(seed)) < 1 - SPARSITY


@torch.no_grad()
def set_weight(layer: Layer, matrix: torch.Tensor, channels_last: bool = False) -> None:
    """Put [M, K] into a layer. ``channels_last``: columns of a convolution are in (r, s, c) order,
    as the published patterns have them, else in PyTorch's (c, r, s)."""
    shape = tuple(layer.weight.shape)
    if matrix.numel() != layer.weight.numel() or len(matrix) != shape[0]:
        raise ShapeError(f"a weight {list(matrix.shape)} does not fit a layer of {list(shape)}")
    if channels_last and len(shape) == 4:
        M, C, R, S = shape
        matrix = matrix.view(M, R, S, C).permute(0, 3, 1, 2)
    layer.weight.copy_(matrix.reshape(shape))


@torch.no_grad()
def calibrate(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Statistics of every BatchNorm from one batch, so that activations keep a sensible size; the
    model in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the average of what was seen: this one batch
    model.train()(inputs)
    return model.eval().requires_grad_(False)
