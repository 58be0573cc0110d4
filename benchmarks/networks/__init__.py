"""Whole pruned networks: what ``python -m benchmarks models`` times and the examples run.

Every one is a plain PyTorch model in float32, as a user would have it before conversion: dense
tensors with zeros. Patterns are the published ones where there are any; see each file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.networks.mobilenet_v1 import mobilenet_v1
from benchmarks.networks.resnet50 import resnet50
from benchmarks.networks.transformer import MODEL, TOKENS, transformer
from benchmarks.networks.vgg19 import vgg19

IMAGE = (3, 224, 224)


@dataclass(frozen=True)
class Network:
    """A network by name. ``build(data)``: the model, in evaluation mode on the CPU."""

    name: str
    build: Callable[[Path], nn.Module]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]
    about: str

    def inputs(self, batch: int) -> torch.Tensor:
        """[batch, *input_shape], normal, always the same."""
        drawn = torch.Generator().manual_seed(batch)
        return torch.randn(batch, *self.input_shape, generator=drawn)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "resnet50", resnet50, IMAGE, (1, 32),
            "published patterns of every layer (magnitude pruning), normal values",
        ),
        Network(
            "mobilenet_v1", mobilenet_v1, IMAGE, (1,),
            "published weights of twelve 1x1 layers, the thirteenth drawn; the others are dense",
        ),
        Network(
            "transformer", transformer, (TOKENS, MODEL), (1,),
            "six encoder layers; published patterns, rows and columns shuffled for each layer",
        ),
        Network("vgg19", vgg19, IMAGE, (1, 32), "every layer pruned at random"),
    )
}  # fmt: skip
