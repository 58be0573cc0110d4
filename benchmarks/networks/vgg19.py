"""VGG-19 (Simonyan, Zisserman 2015), every layer 90 % zeros, drawn: no weights are published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.networks.weights import drawn_pattern, normal_values, set_weight

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions
HIDDEN, CLASSES = 4096, 1000


class VGG19(nn.Module):
    """x [B, 3, 224, 224] to logits [B, 1000]; without dropout, which inference leaves out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, convolutions in STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 7 * 7, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, CLASSES),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


def vgg19(data: Path) -> VGG19:
    """The pruned network with normal values; ``data`` is not needed."""
    with torch.device("meta"):  # every value is set below
        model = VGG19()
    model.to_empty(device="cpu")
    for seed, layer in enumerate(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            M, K = layer.weight.shape[0], layer.weight[0].numel()
            set_weight(layer, normal_values(drawn_pattern(M, K, seed), seed))
            nn.init.zeros_(layer.bias)
    return model.eval().requires_grad_(False)
