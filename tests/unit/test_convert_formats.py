"""Which results conversion makes feature-major, and that nothing but strides changes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparse_triton as st
from sparse_triton.nn import FormattedLayerNorm, SparseLinear
from tests.bounds import bounded, worst
from tests.models import Perceptron, prepared

Tensor = torch.Tensor
WIDTH = 16
X = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(0))


class Three(nn.Module):
    """Three layers and nothing to call them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(0.5)


class Gated(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.drop(F.silu(self.a(x)) * self.b(x)))


class ReadTwice(Three):
    """What a gives is both X and residual of b."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(F.gelu(y + self.b(y)))


class ResidualOfTheInput(Three):
    """b adds a contiguous value: it stays contiguous, and a's result goes into it as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x + self.b(self.a(x)))


class Normalised(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.norm(self.b(self.a(x))))


class Viewed(Three):
    """A view of a feature-major tensor would not be possible."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(y.view(-1, WIDTH).view(3, -1, WIDTH)) + self.b(x)


class Attends(Three):
    """Attention written out: products take any strides; c's X is a view of one's result."""

    def forward(self, x: Tensor) -> Tensor:
        q, v = (y.unflatten(-1, (2, -1)).permute(0, 2, 1, 3) for y in (self.a(x), self.b(x)))
        p = torch.softmax(q * 0.25 @ q.mT, -1)
        return self.c((v.mT @ p.mT).flatten(1, 2).mT)


class Attended(Three):
    """PyTorch's own attention wants the values of a head adjacent; without a fusion it stays."""

    def forward(self, x: Tensor) -> Tensor:
        q, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (self.a(x), self.b(x)))
        y = F.scaled_dot_product_attention(q, q, v)
        return self.c(y.transpose(1, 2).flatten(2))


class AttendedAndAdded(Attended):
    """The forward is rewritten for the residual, and calls our attention, which takes any."""

    def forward(self, x: Tensor) -> Tensor:
        q, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (self.a(x), self.b(x)))
        y = F.scaled_dot_product_attention(q, q, v, attn_mask=None, is_causal=False)
        return x + self.c(y.transpose(1, 2).flatten(2))


class Causal(Attended):
    """What our attention cannot do is PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        q, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (self.a(x), self.b(x)))
        y = F.scaled_dot_product_attention(q, q, v, is_causal=True)
        return x + self.c(y.transpose(1, 2).flatten(2))


class FirstToken(Three):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.b(y)) + torch.tanh(y[:, :1])


class Returned(Three):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, self.c(self.b(y))


class Again(Three):
    """The result of a's first call goes to a, that of its second one out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(self.b(x))) + self.c(x)


class Scaled(Three):
    """What a product's other factor is, the trace does not tell."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(x) * x) + self.a(x)


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Sigmoid(),
        nn.Linear(WIDTH, WIDTH), nn.Dropout(), nn.Linear(WIDTH, WIDTH),
    )  # fmt: skip


CASES: dict[Any, tuple[str, ...]] = {
    Perceptron: ("a", "b"), sequence: ("0", "4"), Gated: ("a", "b"), ReadTwice: ("a", "b"),
    ResidualOfTheInput: ("a",), Normalised: ("a", "b"), Viewed: (), Returned: ("b",), Again: ("b",),
    Attends: ("a", "b"), Attended: (), AttendedAndAdded: ("a", "b"), Causal: (), FirstToken: ("b",),
    Scaled: (),
}  # fmt: skip


def chosen(model: nn.Module) -> tuple[str, ...]:
    layers = model.named_modules()
    return tuple(n for n, m in layers if isinstance(m, SparseLinear) and m.feature_major)


@pytest.mark.parametrize("make", CASES)
@torch.no_grad()
def test_formats(make: Any, tmp_path: Path) -> None:
    dense = prepared(make())
    sparse, _ = st.sparsify(dense)
    assert chosen(sparse) == CASES[make]
    inputs = torch.randn(3, 7, WIDTH)
    outputs = sparse(inputs)
    if make in (Perceptron, Gated, ReadTwice, ResidualOfTheInput, Again, Scaled):
        assert worst(outputs, bounded(dense, inputs)) <= 1.0
    torch.testing.assert_close(outputs, dense(inputs))
    st.save(sparse, tmp_path / "model.safetensors")
    loaded = st.load(tmp_path / "model.safetensors", prepared(make(), seed=1))
    assert chosen(loaded) == CASES[make]
    torch.testing.assert_close(loaded(inputs), outputs, rtol=0, atol=0)
    st.densify_(sparse)
    torch.testing.assert_close(sparse(inputs), dense(inputs), rtol=0, atol=0)


def test_a_layer_that_others_call_stays_contiguous() -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ReadTwice()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner.a(x)

    dense = prepared(Caller())
    sparse, _ = st.sparsify(dense)
    assert chosen(sparse) == ()
    assert worst(sparse(X), bounded(dense, X)) <= 1.0


def test_a_slice_that_no_trace_shows() -> None:
    """With an example it is seen that not all of the block runs."""

    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return self.block[:1](x).view(-1)

    dense = prepared(Slices())
    sparse, _ = st.sparsify(dense, st.SparsifyConfig(min_gain=0.0), example_inputs=X)
    assert chosen(sparse) == ()
    torch.testing.assert_close(sparse(X), dense(X))


def test_neighbours_that_stay_dense() -> None:
    """A dense layer reads a contiguous X."""
    dense = prepared(Perceptron())
    sparse, _ = st.sparsify(dense, filter_fn=lambda name, _: name != "c")
    assert chosen(sparse) == ()
    sparse, _ = st.sparsify(dense, filter_fn=lambda name, _: name != "a")
    assert chosen(sparse) == ()


@pytest.mark.parametrize("activation", ["relu", F.gelu, nn.GELU(), torch.sigmoid])
def test_transformer_encoder_layer(activation: Any) -> None:
    dense = prepared(nn.TransformerEncoderLayer(WIDTH, 2, 32, activation=activation))
    dense.requires_grad_(False)
    sparse, _ = st.sparsify(dense)
    assert chosen(sparse) == (() if activation is torch.sigmoid else ("linear1",))
    torch.testing.assert_close(sparse(X), dense(X))
    st.densify_(sparse)
    assert torch.equal(sparse(X), dense(X))


@pytest.mark.parametrize("make", [Gated, ReadTwice, Attends])
def test_compiled_and_exported(make: Any) -> None:
    sparse, _ = st.sparsify(prepared(make()).requires_grad_(False))
    want = sparse(X)
    compiled = torch.compile(sparse, fullgraph=True, dynamic=True)
    for n in (2, 3):
        x = X.repeat(1, n, 1)
        torch.testing.assert_close(compiled(x), sparse(x))
    torch.testing.assert_close(torch.export.export(sparse, (X,)).module()(X), want)


class Block(nn.Module):
    """As in a Transformer: added, then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.first(x).sigmoid())
        return self.norm2(x + self.down(F.relu(self.up(x))))


@torch.no_grad()
def test_normalisations_between_blocks(tmp_path: Path) -> None:
    dense = nn.Sequential(*(prepared(Block(), seed=i) for i in range(2))).eval()
    sparse, _ = st.sparsify(dense)
    formats = {n: m.feature_major for n, m in sparse.named_modules() if "norm" in n}
    assert formats == {"0.norm1": True, "0.norm2": False, "1.norm1": True, "1.norm2": False}
    assert chosen(sparse) == ("0.up", "0.down", "1.up", "1.down")
    assert type(sparse[0].norm1) is FormattedLayerNorm
    want = sparse(X)
    torch.testing.assert_close(want, dense(X))
    assert sparse.state_dict()["0.norm1.weight"].shape == (WIDTH,)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert chosen(twin) == chosen(sparse) and torch.equal(twin(X), want)
    st.save(sparse, tmp_path / "model.safetensors")
    fresh = nn.Sequential(*(prepared(Block(), seed=2) for _ in range(2))).eval()
    loaded = st.load(tmp_path / "model.safetensors", fresh)
    assert loaded[0].norm1.feature_major and torch.equal(loaded(X), want)
    st.densify_(sparse)
    assert type(sparse[0].norm1) is nn.LayerNorm and torch.equal(sparse(X), dense(X))
    assert vars(sparse[0].norm1).keys() == vars(dense[0].norm1).keys()
