"""Converted models in use: copies, tracing, threads, replicas, gradients."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sparse_triton
from sparse_triton import SparsifyConfig, sparsify_
from sparse_triton.nn import SparseConv2d, SparseConvPool2d, SparseLinear
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared

ANY = SparsifyConfig(min_sparsity=0.0)


USES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "compile": lambda m: torch.compile(m, fullgraph=True, backend="aot_eager"),
    "export": lambda m: torch.export.export(m, (torch.randn(2, 3, 16, 16),)).module(),
}


@pytest.mark.parametrize("use", USES)
def test_uses(use: str) -> None:
    torch._dynamo.reset()
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    want = bounded(model, X)
    sparsify_(model)
    with torch.no_grad():
        assert worst(USES[use](model)(X), want) <= 1.0
        assert worst(model(X), want) <= 1.0


def test_inference_mode_autocast_and_threads() -> None:
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    want, dense = bounded(model, X), copy.deepcopy(model)
    sparsify_(model)
    with torch.inference_mode():
        Y = model(X)
        assert worst(Y, want) <= 1.0
        with torch.autocast("cpu", torch.bfloat16):
            low = model(X)
        assert low.dtype == torch.bfloat16
    assert worst(low, bounded(dense, X, dtype="bfloat16")) <= 1.0
    run = torch.no_grad()(model)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(r, Y) for r in pool.map(lambda _: run(X), range(16)))


def test_state_dict_is_strict() -> None:
    a, b, X = prepared(ResNet(), seed=1), prepared(ResNet(), seed=2), torch.randn(1, 3, 16, 16)
    sparsify_(a, ANY)
    sparsify_(b, ANY)
    a.load_state_dict(b.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(a(X), b(X))
    with pytest.raises(RuntimeError, match="Missing key"):
        a.load_state_dict(prepared(ResNet()).state_dict())


def test_replicas() -> None:
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    sparsify_(model)
    block = model.blocks[0]
    replica = block._replicate_for_data_parallel()
    assert type(replica) is type(block) and replica.forward.__func__ is block.forward.__func__
    X = model.stem(X)
    for name, layer in block._modules.items():
        twin = layer._replicate_for_data_parallel()
        twin.bias = getattr(layer, "bias", None)
        twin._modules = layer._modules
        replica._modules[name] = twin
    with torch.no_grad():
        assert torch.equal(replica(X), block(X))


def test_gradient_reaches_the_input() -> None:
    model, X = prepared(Perceptron()), torch.randn(3, 16, requires_grad=True)
    (want,) = torch.autograd.grad(model(X).square().sum(), X)
    sparsify_(model)
    (got,) = torch.autograd.grad(model(X).square().sum(), X)
    torch.testing.assert_close(got, want)


def test_kinds_of_module() -> None:
    model = prepared(ResNet())
    sparsify_(model)
    assert isinstance(model.stem[0], SparseConvPool2d)
    assert isinstance(model.blocks[0].conv3, SparseConv2d)
    assert isinstance(model.fc, SparseLinear)
    assert sparse_triton.nn.MODULES.keys() >= {"SparseConv2d", "SparseConvPool2d", "SparseLinear"}
