"""Forwards that are no one graph, layers that others call: what no trace shows is not fused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_triton import SparsifyConfig, sparsify
from tests.bounds import bounded, worst
from tests.models import ConvNet, Forward, conv_net, prepared

ANY = SparsifyConfig(min_sparsity=0.0)
Tensor = torch.Tensor


X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def right(got: Tensor, dense: nn.Module, x: Tensor = X) -> bool:
    return worst(got, bounded(dense, x)) <= 1.0


class Optional_(ConvNet):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        y = self.a(x)
        return self.relu(y if mask is None else y * mask)


class MakesTensors(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.a(x)) + torch.ones(4, 1, 1)


class Branches(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.relu(y) if x.sum() > 0 else y


class AsksType(ConvNet):
    """As some networks do: one image, or a list of feature maps."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.0 if isinstance(x, Tensor) else x
        return self.relu(self.a(y))


class Remembers(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return self.relu(self.a(x))


NO_GRAPH: dict[type[ConvNet], tuple[str, Forward, Forward]] = {
    Optional_: ("has optional arguments", *(lambda s, x: s.relu(s.a(x)),) * 2),
    MakesTensors: ("makes tensors", *(lambda s, x: s.relu(s.a(x)) + 1.0,) * 2),
    AsksType: ("the type of a value decides a path", *(lambda s, x: s.relu(s.a(x + x)),) * 2),
    Branches: ("cannot be traced", lambda s, x: s.relu(s.a(x)), lambda s, x: s.a(x)),
}


@pytest.mark.parametrize("cls", NO_GRAPH)
def test_forwards_that_are_not_one_graph(cls: type[ConvNet]) -> None:
    model = prepared(cls(), 0.5)
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].decision == "sparse" and report["a"].fused == ()
        words, *meanings = NO_GRAPH[cls]
        (note,) = report.notes
        assert f"nothing is fused in 1 {cls.__name__}: its forward" in note and words in note
        for x, meant in zip((X.abs(), -X.abs()), meanings, strict=True):
            assert right(sparse(x), conv_net(meant), x)


def test_tracing_leaves_no_trace() -> None:
    model = prepared(Remembers(), 0.5)
    sparse, _ = sparsify(model, ANY)
    assert "last" not in model.__dict__ and "last" not in sparse.__dict__


class Reaches(nn.Module):
    """Calls a block's layer past the block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block[0](x) + self.block(x)


class Slices(Reaches):
    """The same in a way that no trace shows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.block[:1](x)


def test_layers_that_others_reach() -> None:
    with torch.no_grad():
        model = prepared(Reaches(), 0.5)
        sparse, report = sparsify(model, ANY)
        assert report["block.0"].fused == ()
        assert right(sparse(X), model)
        model = prepared(Slices(), 0.5)
        config = SparsifyConfig(0.0, min_gain=0.0)
        sparse, report = sparsify(model, config, example_inputs=X)
        assert report["block.0"].fused == ()
        assert right(sparse(X), nn.Sequential(model.block[0]))


class Listed(nn.Module):
    """Layers in a ModuleList are called by the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.out = nn.ModuleDict({"last": nn.Linear(8, 4)})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return F.gelu(self.out["last"](x))


def test_lists_and_dictionaries_of_layers() -> None:
    model, x = prepared(Listed(), 0.5), torch.randn(3, 8)
    sparse, report = sparsify(model, ANY)
    assert [row.fused for row in report] == [("relu",), ("relu",), ("gelu",)]
    assert worst(sparse(x), bounded(model, x)) <= 1.0
