"""``sparsify_`` and the exact way back: round trips."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse_triton import SparsifyConfig, densify_, errors, sparsify, sparsify_
from sparse_triton.convert import install_
from sparse_triton.nn import SparseModule
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared
from tests.support import same_bits

ANY = SparsifyConfig(min_sparsity=0.0)


conv_layers = st.builds(
    lambda c, k, d, g, bias, same: (c, k, d, g, bias, "same" if same else k // 2),
    st.sampled_from([4, 8]), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]), st.booleans(), st.booleans(),
)  # fmt: skip
afters = st.lists(
    st.sampled_from(["bn", "relu", "gelu", "silu", "max", "avg", "dropout"]), max_size=3
)


def conv_net(layers: list[tuple[Any, list[str]]], seed: int, sparsity: float) -> nn.Sequential:
    modules: list[nn.Module] = []
    channels = 4
    for (c, k, d, g, bias, padding), after in layers:
        modules.append(nn.Conv2d(channels, c, k, 1, padding, d, g, bias))
        channels = c
        made: dict[str, Callable[[], nn.Module]] = {
            "bn": lambda c=c: nn.BatchNorm2d(c), "relu": lambda: nn.ReLU(inplace=True),
            "gelu": nn.GELU, "silu": nn.SiLU, "dropout": nn.Dropout,
            "max": lambda: nn.MaxPool2d(2, 1, 1), "avg": lambda: nn.AvgPool2d(2, 1, 1),
        }  # fmt: skip
        modules += [made[name]() for name in after]
    return prepared(nn.Sequential(*modules), sparsity, seed)


@settings(max_examples=25)
@given(
    layers=st.lists(st.tuples(conv_layers, afters), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    sparsity=st.sampled_from([0.5, 0.9, 1.0]),
    last=st.booleans(),
)
def test_fuzzed_convolutions(
    layers: list[tuple[Any, list[str]]], seed: int, sparsity: float, last: bool
) -> None:
    model, X = conv_net(layers, seed, sparsity), torch.randn(2, 4, 9, 11)
    if last:
        X = X.contiguous(memory_format=torch.channels_last)
    before, want = copy.deepcopy(model.state_dict()), bounded(model, X)
    with torch.no_grad():
        dense = model(X)
        report = sparsify_(model, ANY)
        assert len(report.converted) == len(layers)
        assert worst(model(X), want) <= 1.0
        densify_(model)
        assert same_bits(before, model.state_dict())
        assert torch.equal(model(X), dense)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 24), min_size=2, max_size=5),
    bias=st.booleans(),
    activation=st.sampled_from([nn.ReLU, nn.GELU, nn.SiLU, nn.Identity]),
    seed=st.integers(0, 999),
)
def test_fuzzed_perceptrons(
    sizes: list[int], bias: bool, activation: type[nn.Module], seed: int
) -> None:
    modules: list[nn.Module] = []
    for k, m in pairwise(sizes):
        modules += [nn.Linear(k, m, bias), activation()]
    model, X = prepared(nn.Sequential(*modules), 0.8, seed), torch.randn(3, sizes[0])
    before, want = copy.deepcopy(model.state_dict()), bounded(model, X)
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert len(report.converted) == len(sizes) - 1
        assert worst(sparse(X), want) <= 1.0
        assert same_bits(before, model.state_dict()), "the model itself is as before"
        densify_(sparse)
        assert same_bits(before, sparse.state_dict())


def test_the_way_back_is_exact() -> None:
    model = prepared(ResNet())
    with torch.no_grad():  # what a mask leaves behind: negative zeros
        model.fc.weight.mul_((torch.rand(model.fc.weight.shape) < 0.5).float())
        model.fc.weight[0] = -0.0
    types = {name: type(m) for name, m in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    trains = {n: p.requires_grad for n, p in model.named_parameters()}
    sparsify_(model, ANY)
    assert any(isinstance(m, SparseModule) for m in model.modules())
    names = densify_(model)
    assert set(names) == {n for n, t in types.items() if t in (nn.Conv2d, nn.Linear)}
    assert {name: type(m) for name, m in model.named_modules()} == types
    assert same_bits(before, model.state_dict())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trains
    assert densify_(model) == ()
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_casts_survive_the_way_back() -> None:
    model = prepared(ResNet(), seed=1)
    want = copy.deepcopy(model).half().state_dict()
    sparsify_(model, ANY)
    densify_(model.half())
    assert same_bits(want, model.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loads_survive_the_way_back(dtype: str) -> None:
    model, other = prepared(ResNet(), seed=1), prepared(ResNet(), seed=2)
    source, low = copy.deepcopy(other), getattr(torch, dtype)
    sparsify_(model, ANY)
    sparsify_(source, ANY)
    model.to(low).load_state_dict(source.state_dict())
    X = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        densify_(model)
        assert type(model.fc) is nn.Linear and model.fc.weight.dtype == low
        assert type(model.stem[1]) is nn.Identity, "its BatchNorm stays folded in"
        assert worst(model(X.to(low)), bounded(other, X, dtype=dtype)) <= 1.0
    own = prepared(ResNet(), seed=1)
    before = copy.deepcopy(own.state_dict())
    sparsify_(own, ANY)
    own.load_state_dict(own.state_dict())  # the same again changes nothing
    densify_(own)
    assert same_bits(before, own.state_dict())


@pytest.mark.parametrize("make", [ResNet, Perceptron])
def test_install(make: type[nn.Module]) -> None:
    """The way of a loaded file: modules by name, onto a model that was never trained."""
    model, skeleton = prepared(make(), seed=1), make()
    sparse, _ = sparsify(model, ANY)
    layers = {n: m for n, m in sparse.named_modules() if isinstance(m, SparseModule)}
    made = {}
    for name, m in layers.items():
        made[name] = type(m).from_spec(m.spec(), m.matrix, m.bias)
        made[name].fused = m.fused
    install_(skeleton, made)
    X = torch.randn(2, 3, 16, 16) if make is ResNet else torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(skeleton.eval()(X), sparse(X))
        assert skeleton.state_dict().keys() == sparse.state_dict().keys()
        densify_(skeleton)
        assert worst(skeleton(X), bounded(model, X)) <= 1.0
    assert not any(isinstance(m, SparseModule) for m in skeleton.modules())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder(activation: str) -> None:
    """Its fast path would read the weights past the sparse layers; so it is switched off."""

    def make() -> nn.TransformerEncoder:
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation=activation, batch_first=True
        )
        return nn.TransformerEncoder(layer, 2)

    model, X = prepared(make()), torch.randn(2, 5, 16)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    attributes = [dict(m.__dict__) for m in model.layers]
    with torch.no_grad():
        want = [model(X), model(X, src_key_padding_mask=padding)]
        before = copy.deepcopy(model.state_dict())
        sparse, report = sparsify(model)
        assert report.converted == tuple(
            f"layers.{i}.{name}" for i in (0, 1) for name in ("linear1", "linear2")
        )
        assert sparse.layers[0].linear1.activation == activation
        skeleton = make().eval()
        skeleton.load_state_dict({k: v for k, v in before.items()})
        made = {}
        for name, m in sparse.named_modules():
            if isinstance(m, SparseModule):
                made[name] = type(m).from_spec(m.spec(), m.matrix, m.bias)
                made[name].fused = m.fused
        install_(skeleton, made)
        for converted in (sparse, skeleton):
            got = [converted(X), converted(X, src_key_padding_mask=padding)]
            torch.testing.assert_close(got[0], want[0])
            torch.testing.assert_close(got[1][~padding], want[1][~padding])
            densify_(converted)
            assert same_bits(before, converted.state_dict())
            assert [m.activation_relu_or_gelu for m in converted.layers] == [
                a["activation_relu_or_gelu"] for a in attributes
            ]
            assert torch.equal(converted(X), want[0])


def test_install_refuses() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    sparsify_(model, ANY)
    layer = model[0]
    other = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    with pytest.raises(errors.InputError, match=r"0 was fused with relu; .* followed by gelu"):
        install_(other, {"0": layer})
    assert type(other[0]) is nn.Linear
    with pytest.raises(errors.InputError, match="does not have the sparse layers"):
        install_(other, {"first": layer})
