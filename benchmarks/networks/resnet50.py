"""ResNet-50 (He et al. 2016; stride in the 3x3, as in v1.5) with the published pruned patterns.

Source of the patterns: Gale, Elsen, Hooker, The State of Sparsity in Deep Neural Networks, 2019, in
the Deep Learning Matrix Collection: magnitude pruning to 90 %, every layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.networks.weights import Layer, calibrate, normal_values, pattern, set_weight

FOLDER = Path("dlmc/rn50/magnitude_pruning/0.9")
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
EXPANSION, CLASSES = 4, 1000


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up; added to the input, which a 1x1 projects where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.projection: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.projection = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.projection is None else self.projection(x)))


class ResNet50(nn.Module):
    """x [B, 3, 224, 224] to logits [B, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        groups, inputs = [], 64
        for group, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            layers = []
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(Bottleneck(inputs, width, stride))
                inputs = width * EXPANSION
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.relu(self.bn(self.conv(x))))
        return self.fc(self.average(self.groups(y)).flatten(1))

    def published(self) -> Iterator[tuple[str, Layer]]:
        """Each layer and the name of its pattern's file."""
        yield "initial_conv", self.conv
        for g, group in enumerate(self.groups, 1):
            for b, block in enumerate(group):
                tag = (
                    f"block_group_projection_block_group{g}" if b == 0 else f"block_group{g}_{b}_1"
                )
                if block.projection is not None:
                    yield f"bottleneck_projection_{tag}", block.projection[0]
                for i, conv in enumerate((block.conv1, block.conv2, block.conv3), 1):
                    yield f"bottleneck_{i}_{tag}", conv
        yield "final_dense", self.fc


def resnet50(data: Path) -> ResNet50:
    """The pruned network with normal values, its BatchNorms calibrated on noise."""
    model = ResNet50()
    for seed, (name, layer) in enumerate(model.published()):
        keep = pattern(data / FOLDER / f"{name}.smtx")
        set_weight(layer, normal_values(keep, seed), channels_last=True)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.5)  # sums along the residual path stay small
    noise = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return calibrate(model, noise)
