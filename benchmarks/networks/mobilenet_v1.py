"""MobileNet V1 (Howard et al. 2017) with the published pruned 1x1 weights at 90 %.

Source of the weights: Elsen, Dukhan, Gale, Simonyan, Fast Sparse ConvNets, 2020, as published with
SparseRT (Wang, PACT 2020): twelve of the thirteen 1x1 layers. The last, 1024 x 1024, is drawn. The
first convolution, the depthwise ones and the classifier are dense, as there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.networks.weights import calibrate, drawn_pattern, normal_values, set_weight
from sparse_triton import SparseMatrix

CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
DRAWN = 12  # the layer without a published weight


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MobileNetV1(nn.Module):
    """x [B, 3, 224, 224] to logits [B, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS[0], 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS[0]),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*map(_separable, CHANNELS[:-1], CHANNELS[1:], STRIDES))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(CHANNELS[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(self.stem(x))
        return self.fc(self.average(y).flatten(1))


def mobilenet_v1(data: Path) -> MobileNetV1:
    """The pruned network, its BatchNorms calibrated on noise."""
    torch.manual_seed(0)
    model = MobileNetV1()
    for i, block in enumerate(model.blocks):
        layer = block[3]
        if i == DRAWN:
            matrix = normal_values(drawn_pattern(*layer.weight.shape[:2], seed=i), seed=i)
        else:
            path = data / f"values/mobilenet_v1_contraction_{i}.npz"
            matrix = SparseMatrix.from_npz(path).to_dense()
        set_weight(layer, matrix)
    noise = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return calibrate(model, noise)
