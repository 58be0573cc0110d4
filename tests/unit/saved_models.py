"""What the tests of ``save`` and ``load`` share: small pruned models, dense and converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sparse_triton import prune_
from sparse_triton.io import container
from sparse_triton.nn import SparseLinear

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    prune_(model, sparsity, "random").make_permanent()
    return model.requires_grad_(False)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 64, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def converted(model: nn.Sequential) -> nn.Sequential:
    """Its Linear layers sparse."""
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            model[i] = SparseLinear(layer.weight, layer.bias)
    return model


def as_int(t: torch.Tensor) -> torch.Tensor:
    return t.view(torch.int16) if t.dtype is torch.bfloat16 else t


def same_state(a: nn.Module, b: nn.Module) -> None:
    one, other = a.state_dict(), b.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        bits = [t.numpy().tobytes() for t in (as_int(one[name]), as_int(other[name]))]
        assert bits[0] == bits[1], name


def rewritten(path: Path, change: Callable[[dict], object]) -> Path:
    """The file with a changed document and checksums that are right again."""
    document, tensors = container.read(path)
    change(document)
    document.pop("sha256")
    for name in ("format", "schema"):
        document.pop(name) if document[name] == getattr(container, name.upper()) else None
    container.write(path, document, tensors)
    return path


class Block(nn.Module):
    """A residual block as networks have it, with a pool and tokens after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 32, 1)
        self.bn2 = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.fc = nn.Linear(32 * 16, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.relu(self.bn1(self.conv1(x))))
        y = self.relu(y + self.bn2(self.conv2(y)))
        return self.relu(self.fc(self.grouped(y).flatten(1)))


def block(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Block()
    for norm in (model.bn1, model.bn2):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.running_mean)
    return pruned(model).eval()
