"""Small pruned models of the forms that conversion knows; BatchNorm statistics are drawn too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor
Forward = Callable[[Any, Tensor], Tensor]


class Bottleneck(nn.Module):
    """A residual block as torchvision writes it: one ReLU module for all, ``out += identity``."""

    def __init__(self, c_in: int, c: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        self.conv3 = nn.Conv2d(c, 2 * c, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * c)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(c_in, 2 * c, 1, stride), nn.BatchNorm2d(2 * c))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.down is not None:
            identity = self.down(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Bottleneck(8, 8), Bottleneck(16, 8, 2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(x.mean((2, 3)))


class Perceptron(nn.Module):
    """Functional activations and a residual between Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y = torch.relu(y + self.b(y))
        return self.act(self.c(y))


def prepared(model: nn.Module, sparsity: float = 0.8, seed: int = 0) -> Any:
    """In eval mode, random weights with zeros stored in them, BatchNorms with statistics."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                for t in (m.running_mean, m.weight, m.bias):
                    t.copy_(torch.randn(t.shape, generator=draw))
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=draw) + 0.5)
            elif isinstance(m, nn.Linear | nn.Conv2d):
                w = m.weight
                w.copy_(torch.randn(w.shape, generator=draw) / w[0].numel() ** 0.5)
                w[torch.rand(w.shape, generator=draw) < sparsity] = 0.0
                if m.bias is not None:
                    m.bias.copy_(torch.randn(m.bias.shape, generator=draw))
    return model.eval()


class ConvNet(nn.Module):
    """Two convolutions and what may follow them; the forward is the test's."""

    def __init__(self, forward: Forward | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.bn, self.relu, self.gelu = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.GELU()
        self.tanh_gelu, self.pool = nn.GELU("tanh"), nn.MaxPool2d(2)
        self.down = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.how = forward


def conv_net(forward: Forward) -> nn.Module:
    cls = type("Made", (ConvNet,), {"forward": forward})
    return prepared(cls(), 0.5)  # type: ignore[no-any-return]
