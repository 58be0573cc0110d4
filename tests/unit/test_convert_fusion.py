"""What is fused and, above all, what is not: every hazard keeps the dense model's result."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_triton import SparsifyConfig, densify_, sparsify
from sparse_triton.convert.rewrite import fused_class
from sparse_triton.nn import SparseModule
from tests.bounds import bounded, worst
from tests.models import Forward, Perceptron, ResNet, conv_net, prepared

ANY = SparsifyConfig(min_sparsity=0.0)
Tensor = torch.Tensor


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
    model = conv_net(forward)
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
        sparse, report = sparsify(conv_net(forward), ANY)
        assert report["a"].fused == ()
        assert right(sparse(X.clone()), conv_net(meant))


def test_converted_twice() -> None:
    """What the first call left is fused by the second, and one way back undoes both."""
    model = conv_net(lambda s, x: F.relu(s.b(F.relu(s.a(x) + x)) + x))
    with torch.no_grad():
        sparse, first = sparsify(model, ANY, filter_fn=lambda name, layer: name == "a")
        twice, second = sparsify(sparse, ANY)
        assert first["a"].fused == second["b"].fused == ("residual", "relu")
        assert right(twice(X), model)
        densify_(twice)
        assert type(twice) is type(model) and torch.equal(twice(X), model(X))


def test_hooks_see_what_they_saw() -> None:
    model = conv_net(lambda s, x: s.relu(s.bn(s.a(x))))
    seen: list[Tensor] = []
    model.a.register_forward_hook(lambda m, args, y: seen.append(y.clone()))
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert right(sparse(X), conv_net(lambda s, x: s.relu(s.bn(s.a(x)))))
        assert len(seen) == 1 and right(seen[0], conv_net(lambda s, x: s.a(x)))
        densify_(sparse)
        sparse(X)
    assert len(seen) == 2


def test_a_hooked_relu_stays() -> None:
    model = conv_net(lambda s, x: s.relu(s.a(x)))
    model.relu.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert right(sparse(X), conv_net(lambda s, x: s.relu((y := s.a(x)) + y)))


def test_batch_norm_in_training_mode_is_not_folded() -> None:
    model = conv_net(lambda s, x: s.relu(s.bn(s.a(x)))).train()
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ()
        assert any("training mode" in note for note in report.notes)
        before = sparse.bn.running_mean.clone()
        sparse(X)
        assert not torch.equal(sparse.bn.running_mean, before)
        assert sparse.a.training, "a mode is carried over"
    free = conv_net(lambda s, x: s.bn(s.a(x)))
    free.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()
    sparse, report = sparsify(free, ANY)
    assert report["a"].fused == () and "no running statistics" in report.notes[0]


def test_batch_norm_without_parameters_and_with_zeros() -> None:
    model = conv_net(lambda s, x: s.bn(s.a(x)))
    model.bn = nn.BatchNorm2d(4, affine=False).eval()
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert report["a"].fused == ("batch norm",) and right(sparse(X), model)
        model = conv_net(lambda s, x: s.bn(s.a(x)))
        model.bn.weight[1] = 0.0  # such a filter has no weights left
        state = {k: v.clone() for k, v in model.state_dict().items()}
        sparse, _ = sparsify(model, ANY)
        assert right(sparse(X), model)
        densify_(sparse)
        assert all(torch.equal(v, state[k]) for k, v in sparse.state_dict().items())


def test_a_dropout_that_drops_stays() -> None:
    model = conv_net(lambda s, x: s.drop(s.a(x)) + x)
    model.drop.train()
    sparse, report = sparsify(model, ANY)
    assert report["a"].fused == () and isinstance(sparse.drop, nn.Dropout) and sparse.drop.training


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
    model = conv_net(lambda s, x: s.relu(s.bn(s.a(x))))
    config = SparsifyConfig(0.0, min_gain=1e6)
    sparse, report = sparsify(model, config, example_inputs=X)
    assert "a" not in report.converted and report["a"].fused == ()
    assert not isinstance(sparse.a, SparseModule) and type(sparse.bn) is nn.BatchNorm2d
    with torch.no_grad():
        assert torch.equal(sparse(X), model(X))
