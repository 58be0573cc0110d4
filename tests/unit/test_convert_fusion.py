"""What is fused and, above all, what is not: every hazard keeps the dense model's result."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_triton import SparsifyConfig, densify_, sparsify
from sparse_triton.convert.rewrite import fused_class
from sparse_triton.nn import SparseModule
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared

ANY = SparsifyConfig(min_sparsity=0.0)
Tensor = torch.Tensor
Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
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


def net(forward: Forward) -> nn.Module:
    cls = type("Made", (Net,), {"forward": forward})
    return prepared(cls(), 0.5)  # type: ignore[no-any-return]


X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))

# forward -> what is fused with a and with b
FUSED: dict[str, tuple[Forward, tuple[str, ...], tuple[str, ...]]] = {
    "batch norm and relu": (lambda s, x: s.relu(s.bn(s.a(x))), ("batch norm", "relu"), ()),
    "function": (lambda s, x: F.relu(s.a(x), inplace=True), ("relu",), ()),
    "method": (lambda s, x: s.a(x).relu_(), ("relu",), ()),
    "gelu": (lambda s, x: F.gelu(s.a(x)), ("gelu",), ()),
    "pool": (lambda s, x: s.pool(torch.relu(s.a(x))), ("relu", "max pool 2x2"), ()),
    "residual": (lambda s, x: F.relu(s.bn(s.a(x)) + x), ("batch norm", "residual", "relu"), ()),
    "residual, turned": (lambda s, x: F.silu(x + s.a(x)), ("residual", "silu"), ()),
    "residual, method": (lambda s, x: s.a(x).add(x), ("residual",), ()),
    "residual of another": (lambda s, x: s.a(x) + s.b(x), ("residual",), ()),
    "residual past dropout": (lambda s, x: s.drop(s.a(x)) + x, ("dropout", "residual"), ()),
    "dropout alone": (lambda s, x: s.drop(s.a(x)), (), ()),
    "chain": (lambda s, x: s.b(F.relu(s.a(x) + x)) + x, ("residual", "relu"), ("residual",)),
    "spread residual": (lambda s, x: F.relu(s.a(x) + s.scale), ("residual", "relu"), ()),
    "promoting residual": (lambda s, x: s.a(x) + x.double(), ("residual",), ()),
    # -- and what must not be
    "twice used": (lambda s, x: torch.relu(y := s.a(x)) + s.gelu(y), (), ()),
    "twice called": (lambda s, x: s.relu(s.a(s.relu(s.a(x)))), (), ()),
    "tanh": (lambda s, x: s.tanh_gelu(s.a(x)), (), ()),
    "tanh function": (lambda s, x: F.gelu(s.a(x), approximate="tanh"), (), ()),
    "relu before add": (lambda s, x: s.a(x).relu() + x, ("relu",), ()),
    "scaled": (lambda s, x: torch.add(s.a(x), x, alpha=2), (), ()),
    "number": (lambda s, x: s.a(x) + 1.0, (), ()),
    "itself": (lambda s, x: (y := s.a(x)) + y, (), ()),
    "pool after residual": (lambda s, x: s.pool(s.a(x) + x), ("residual",), ()),
    "shared batch norm": (lambda s, x: s.bn(s.b(s.bn(s.a(x)))), (), ()),
    "into the other": (lambda s, x: x.clone().add_(s.a(x)), (), ()),
}


@pytest.mark.filterwarnings("ignore:Using a non-tuple")
@pytest.mark.parametrize("name", FUSED)
def test_patterns(name: str) -> None:
    forward, a, b = FUSED[name]
    model = net(forward)
    with torch.no_grad():
        want = model(X.clone())
        sparse, report = sparsify(model, ANY)
        assert (report["a"].fused, report["b"].fused) == (a, b)
        got = sparse(X.clone())
        assert got.dtype == want.dtype
        assert right(got, model)
        densify_(sparse)
        assert torch.equal(sparse(X.clone()), want)
        assert type(sparse) is type(model)


def right(got: Tensor, dense: nn.Module, x: Tensor = X) -> bool:
    return worst(got, bounded(dense, x)) <= 1.0


def mutating(s: Any, x: Tensor) -> Tensor:
    h = x * 1.0
    y = s.a(h)
    h.add_(1.0)
    return y + h


def mutating_module(s: Any, x: Tensor) -> Tensor:
    h = x * 1.0
    y = s.a(h)
    return y + s.down(h)


@pytest.mark.parametrize(
    ("forward", "meant"),
    [
        (mutating, lambda s, x: s.a(x) + (x + 1.0)),
        (mutating_module, lambda s, x: s.a(x) + s.down(x)),
    ],
)
def test_the_input_is_written_before_the_add(forward: Forward, meant: Forward) -> None:
    """The call may not move behind what changes its input."""
    with torch.no_grad():
        sparse, report = sparsify(net(forward), ANY)
        assert report["a"].fused == ()
        assert right(sparse(X.clone()), net(meant))


class Optional_(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        y = self.a(x)
        return self.relu(y if mask is None else y * mask)


class MakesTensors(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.a(x)) + torch.ones(4, 1, 1)


class Branches(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.relu(y) if x.sum() > 0 else y


class AsksType(Net):
    """As some networks do: one image, or a list of feature maps."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.0 if isinstance(x, Tensor) else x
        return self.relu(self.a(y))


class Remembers(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return self.relu(self.a(x))


NO_GRAPH: dict[type[Net], tuple[str, Forward, Forward]] = {
    Optional_: ("has optional arguments", *(lambda s, x: s.relu(s.a(x)),) * 2),
    MakesTensors: ("makes tensors", *(lambda s, x: s.relu(s.a(x)) + 1.0,) * 2),
    AsksType: ("the type of a value decides a path", *(lambda s, x: s.relu(s.a(x + x)),) * 2),
    Branches: ("cannot be traced", lambda s, x: s.relu(s.a(x)), lambda s, x: s.a(x)),
}


@pytest.mark.parametrize("cls", NO_GRAPH)
def test_forwards_that_are_not_one_graph(cls: type[Net]) -> None:
    model = prepared(cls(), 0.5)
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].decision == "sparse" and report["a"].fused == ()
        words, *meanings = NO_GRAPH[cls]
        (note,) = report.notes
        assert f"nothing is fused in 1 {cls.__name__}: its forward" in note and words in note
        for x, meant in zip((X.abs(), -X.abs()), meanings, strict=True):
            assert right(sparse(x), net(meant), x)


def test_converted_twice() -> None:
    """What the first call left is fused by the second, and one way back undoes both."""
    model = net(lambda s, x: F.relu(s.b(F.relu(s.a(x) + x)) + x))
    with torch.no_grad():
        sparse, first = sparsify(model, ANY, filter_fn=lambda name, layer: name == "a")
        twice, second = sparsify(sparse, ANY)
        assert first["a"].fused == second["b"].fused == ("residual", "relu")
        assert right(twice(X), model)
        densify_(twice)
        assert type(twice) is type(model) and torch.equal(twice(X), model(X))


def test_tracing_leaves_no_trace() -> None:
    model = prepared(Remembers(), 0.5)
    sparse, _ = sparsify(model, ANY)
    assert "last" not in model.__dict__ and "last" not in sparse.__dict__


def test_hooks_see_what_they_saw() -> None:
    model = net(lambda s, x: s.relu(s.bn(s.a(x))))
    seen: list[Tensor] = []
    model.a.register_forward_hook(lambda m, args, y: seen.append(y.clone()))
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert right(sparse(X), net(lambda s, x: s.relu(s.bn(s.a(x)))))
        assert len(seen) == 1 and right(seen[0], net(lambda s, x: s.a(x)))
        densify_(sparse)
        sparse(X)
    assert len(seen) == 2


def test_a_hooked_relu_stays() -> None:
    model = net(lambda s, x: s.relu(s.a(x)))
    model.relu.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert right(sparse(X), net(lambda s, x: s.relu((y := s.a(x)) + y)))


def test_batch_norm_in_training_mode_is_not_folded() -> None:
    model = net(lambda s, x: s.relu(s.bn(s.a(x)))).train()
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert any("training mode" in note for note in report.notes)
        before = sparse.bn.running_mean.clone()
        sparse(X)
        assert not torch.equal(sparse.bn.running_mean, before)
        assert sparse.a.training, "a mode is carried over"
    free = net(lambda s, x: s.bn(s.a(x)))
    free.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()
    sparse, report = sparsify(free, ANY)
    assert report["a"].fused == () and "no running statistics" in report.notes[0]


def test_batch_norm_without_parameters_and_with_zeros() -> None:
    model = net(lambda s, x: s.bn(s.a(x)))
    model.bn = nn.BatchNorm2d(4, affine=False).eval()
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ("batch norm",) and right(sparse(X), model)
        model = net(lambda s, x: s.bn(s.a(x)))
        model.bn.weight[1] = 0.0  # such a filter has no weights left
        state = {k: v.clone() for k, v in model.state_dict().items()}
        sparse, _ = sparsify(model, ANY)
        assert right(sparse(X), model)
        densify_(sparse)
        assert all(torch.equal(v, state[k]) for k, v in sparse.state_dict().items())


def test_a_dropout_that_drops_stays() -> None:
    model = net(lambda s, x: s.drop(s.a(x)) + x)
    model.drop.train()
    sparse, report = sparsify(model, ANY)
    assert report["a"].fused == () and isinstance(sparse.drop, nn.Dropout) and sparse.drop.training


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


@pytest.mark.parametrize("make", [ResNet, Perceptron])
def test_rewritten_forwards_are_pickled_as_source(make: type[nn.Module]) -> None:
    model = prepared(make())
    x = torch.randn(2, 16) if make is Perceptron else torch.randn(1, 3, 8, 8)
    sparse, _ = sparsify(model)
    want, blob = sparse(x), pickle.dumps(sparse)
    fused_class.cache_clear()  # as in a process that never converted anything
    loaded = pickle.loads(blob)
    assert isinstance(loaded, make) and torch.equal(loaded(x), want)
    densify_(loaded)
    assert type(loaded) is make
    assert torch.equal(loaded(x), model(x))


def test_an_example_can_be_what_decides() -> None:
    """Layers that dense runs faster keep their BatchNorm and activation."""
    model = net(lambda s, x: s.relu(s.bn(s.a(x))))
    config = SparsifyConfig(0.0, min_gain=1e6)
    sparse, report = sparsify(model, config, example_inputs=X)
    assert "a" not in report.converted and report["a"].fused == ()
    assert not isinstance(sparse.a, SparseModule) and type(sparse.bn) is nn.BatchNorm2d
    with torch.no_grad():
        assert torch.equal(sparse(X), model(X))
