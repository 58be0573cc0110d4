"""``conv2d`` behind PyTorch's machinery: gradients, registration, compile, export, autocast."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_triton import SparseFilter, conv2d, conv2d_pool

F = torch.nn.functional
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def drawn(*shape: int, density: float = 0.3) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


def dense(
    X: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    activation: str | None, pool: str | None, **options: Any,
) -> torch.Tensor:  # fmt: skip
    y = F.conv2d(X, w, bias, **options)
    y = y if residual is None else y + residual
    y = y if activation is None else getattr(F, activation)(y)
    return y if pool is None else getattr(F, f"{pool}_pool2d")(y, 3, 2, 1)


@pytest.mark.filterwarnings("ignore:Using padding")
@settings(max_examples=25)
@given(
    activation=st.sampled_from([None, "relu", "gelu", "silu"]),
    pool=st.sampled_from([None, "max", "avg"]),
    options=st.sampled_from(
        [{}, {"padding": "same"}, {"stride": 2, "padding": (2, 1)}, {"dilation": 2, "groups": 2}]
    ),
    prepared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_are_torchs(
    activation: str | None, pool: str | None, options: dict[str, Any], prepared: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    groups = options.get("groups", 1)
    w = drawn(6, 4 // groups, 3, 2)
    X, bias = torch.randn(2, 4, 9, 8, requires_grad=True), torch.randn(6, requires_grad=True)
    inputs = [X, bias]
    residual = None
    if pool is None:
        residual = torch.randn_like(F.conv2d(X, w, **options)).requires_grad_()
        inputs.append(residual)
    W = SparseFilter.from_dense(w, groups) if prepared else w
    if pool is None:
        Y = conv2d(X, W, bias, **options, activation=activation, residual=residual)
    else:
        Y = conv2d_pool(
            X, W, bias, **options, activation=activation, pool=pool, pool_kernel=3, pool_stride=2,
            pool_padding=1,
        )  # fmt: skip
    want = dense(X, w, bias, residual, activation, pool, **options)
    torch.testing.assert_close(Y, want, **CLOSE)
    grad = torch.randn_like(want)
    mine, its = (torch.autograd.grad(y, inputs, grad, create_graph=True) for y in (Y, want))
    for a, b in zip(mine, its, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_second_gradients() -> None:
    X, w = torch.randn(1, 3, 6, 6, requires_grad=True), drawn(4, 3, 3, 3)
    for f in (conv2d, F.conv2d):
        (first,) = torch.autograd.grad(F.silu(f(X, w)).square().sum(), X, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), X)
        if f is conv2d:
            mine = second
    torch.testing.assert_close(mine, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("activation", "pool", "channels_last"),
    [(None, None, False), ("gelu", "max", True), (None, "avg", False), ("relu", None, True)],
)
def test_opcheck(activation: str | None, pool: str | None, channels_last: bool) -> None:
    W = SparseFilter.from_dense(drawn(6, 2, 3, 3), 2)
    X = torch.randn(2, 4, 9, 8)
    if channels_last:
        X = X.contiguous(memory_format=torch.channels_last)
    X.requires_grad_()
    m, bias = W.matrix, torch.randn(6, requires_grad=True)
    window = [2, 2, 1, 1, 1, 0] if pool else []
    options = (activation, [2, 1], [1, 1, 0, 2], [1, 2], 2, pool, window)
    parts = (m.row_offsets, m.column_indices, m.values)
    ops = torch.ops.sparse_triton
    torch.library.opcheck(
        ops.conv2d.default, (*parts, X, bias, None, *options, list(W.shape), m.weight_id)
    )
    torch.library.opcheck(ops.conv2d_dense.default, (W.to_dense(), X, bias, None, *options))
    torch.library.opcheck(ops.conv2d_weight.default, (*parts, 2, list(W.shape), m.weight_id))


class Net(torch.nn.Module):
    """A prepared and a plain weight, a pool, a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SparseFilter.from_dense(drawn(8, 3, 3, 3))
        self.second = torch.nn.Parameter(drawn(8, 8, 1, 1), requires_grad=False)
        self.bias = torch.nn.Parameter(torch.randn(8))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        y = conv2d_pool(X, self.first, self.bias, padding=1)
        return conv2d(y, self.second, activation="silu")

    def dense(self, X: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.conv2d(X, self.first.to_dense(), self.bias, padding=1).relu(), 2)
        return F.silu(F.conv2d(y, self.second))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, channels_last: bool) -> None:
    net = Net()
    form = torch.channels_last if channels_last else torch.contiguous_format
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic)
    for size in (8, 12) if dynamic else (8,):
        X = torch.randn(2, 3, size, 10).contiguous(memory_format=form)
        with torch.no_grad():
            Y = compiled(X)
        torch.testing.assert_close(Y, net.dense(X), **CLOSE)
        assert Y.is_contiguous(memory_format=form)


def test_gradients_of_a_compiled_net() -> None:
    net, X = Net(), torch.randn(2, 3, 8, 10, requires_grad=True)
    torch.compile(net, fullgraph=True, backend="aot_eager")(X).sum().backward()
    want = torch.autograd.grad(net.dense(X).sum(), (X, net.bias))
    for mine, its in zip((X.grad, net.bias.grad), want, strict=True):
        torch.testing.assert_close(mine, its, **CLOSE)


def test_export() -> None:
    net, X = Net(), torch.randn(2, 3, 8, 10)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(net, (X,), dynamic_shapes={"X": {0: batch}})
    more = torch.randn(5, 3, 8, 10)
    torch.testing.assert_close(program.module()(more), net.dense(more), **CLOSE)


def test_autocast() -> None:
    W, X = SparseFilter.from_dense(drawn(6, 4, 3, 3)), torch.randn(1, 4, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        Y = conv2d(X, W, torch.randn(6))
    assert Y.dtype == torch.bfloat16
    torch.testing.assert_close(conv2d(X.bfloat16(), W), conv2d(X.bfloat16(), W.to_dense()))


def test_vmap() -> None:
    w, X = drawn(6, 4, 3, 3), torch.randn(3, 2, 4, 7, 7)
    each = torch.func.vmap(lambda x: conv2d(x, w))(X)
    torch.testing.assert_close(each, torch.stack([conv2d(x, w) for x in X]), **CLOSE)


def test_filters_travel() -> None:
    W = SparseFilter.from_dense(drawn(6, 2, 3, 3), 2)
    again = pickle.loads(pickle.dumps(W))
    assert (again.shape, again.groups, again.nnz) == (W.shape, 2, W.nnz)
    assert again.to_dense().equal(W.to_dense()) and again.matrix.launchers is W.matrix.launchers
    assert copy.deepcopy(W) is copy.copy(W) is W is W.to("cpu")
    assert "6x2x3x3, groups=2" in repr(W)
