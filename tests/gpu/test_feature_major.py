"""Feature-major activations on a GPU: products, normalisations, and layers that hand them on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparse_triton as st
from sparse_triton.call import Call
from sparse_triton.nn import FormattedLayerNorm, SparseLinear
from sparse_triton.nn.attention import FEATURES, _is_dense, attention
from sparse_triton.verify import call_ratio, config_of
from tests.bounds import attention as bounded_attention
from tests.bounds import layer_norm, worst
from tests.models import prepared
from tests.support import weight

pytestmark = pytest.mark.gpu
FORMATS = (False, True)


def formatted(t: torch.Tensor, feature_major: bool) -> torch.Tensor:
    return t.movedim(-1, 0).contiguous().movedim(0, -1) if feature_major else t


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tokens", [(1,), (17,), (2, 64), (256,)])
@pytest.mark.parametrize("from_", FORMATS)
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("M", [96, 1030])
@torch.no_grad()
def test_products(
    M: int, to: bool, from_: bool, tokens: tuple[int, ...], dtype: torch.dtype
) -> None:
    W = weight("ragged", M, 192, 0.1, seed=M).to("cuda")
    X = formatted(torch.randn(*tokens, 192, device="cuda", dtype=dtype), from_)
    bias = torch.randn(M, device="cuda", dtype=dtype)
    for residual in (None, formatted(torch.randn(*tokens, M, device="cuda", dtype=dtype), not to)):
        layer = SparseLinear(W, bias, activation="relu", feature_major=to)
        call = Call(X, bias, residual, "relu", True, feature_major=to)
        Y = layer(X, residual)
        assert call_ratio(Y, W, call, config_of(W, call)) <= 1.0
        assert (Y.movedim(-1, 0) if to else Y).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (3, 7, 48), (256, 512), (261, 515), (5, 4096)])
@pytest.mark.parametrize("from_", FORMATS)
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_normalisations(
    affine: bool, to: bool, from_: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm = FormattedLayerNorm(shape[-1], elementwise_affine=affine, device="cuda", dtype=dtype)
    norm.feature_major = to
    for p in norm.parameters():
        p.normal_()
    X = formatted(torch.randn(shape, device="cuda", dtype=dtype) + 2.0, from_)
    Y = norm(X)
    assert (Y.movedim(-1, 0) if to else Y).is_contiguous()
    gain, bias = (None if t is None else t.cpu() for t in (norm.weight, norm.bias))
    assert worst(Y, layer_norm(X.cpu(), gain, bias, norm.eps)) <= 1.0
    assert torch.equal(norm(X), Y), "the same bits again"


class Layer(nn.Module):
    library = True

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.library:
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        else:
            p = torch.softmax(q * 32**-0.5 @ k.mT, -1)
            y = (v.mT @ p.mT).flatten(1, 2).mT
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


@pytest.mark.parametrize(
    "shape", [(16, 64, 16), (16, 128, 32), (256, 256, 64), (33, 261, 32), (1, 1000, 128)]
)
@pytest.mark.parametrize("from_", FORMATS)
@pytest.mark.parametrize("to", FORMATS)
@torch.no_grad()
def test_attention(to: bool, from_: bool, shape: tuple[int, int, int]) -> None:
    tokens, keys, D = shape
    q = heads(2, tokens, D, to)
    k, v = heads(2, keys, D, from_), heads(2, keys, D, to)
    assert all(_is_dense(t) or t.shape[2] % 4 for t in (q, k, v))
    y = attention(q, k, v, scale=0.2)
    assert worst(y, bounded_attention(q.cpu(), k.cpu(), v.cpu(), 0.2)) <= 1.0
    assert torch.equal(attention(q, k, v, scale=0.2), y), "the same bits again"
    if to and tokens % 4 == 0 and D in FEATURES:
        assert y.stride(2) == 1, "the format that q has"


def heads(batch: int, tokens: int, D: int, token_adjacent: bool) -> torch.Tensor:
    """[batch, 3, tokens, D], a view of features or tokens side by side."""
    y = formatted(torch.randn(batch, tokens, 3 * D, device="cuda"), token_adjacent)
    return y.unflatten(-1, (3, D)).transpose(1, 2)


@pytest.mark.parametrize("tokens", [32, 33])
@pytest.mark.parametrize("library", [True, False])
@torch.no_grad()
def test_a_stack_in_a_graph(library: bool, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same layers with nothing feature-major: as far apart as dense ones in float32."""
    monkeypatch.setattr(Layer, "library", library)
    dense = nn.Sequential(*(prepared(Layer(), seed=i) for i in range(3))).cuda()
    sparse = copy.deepcopy(dense)
    st.sparsify_(sparse)
    assert [type(m) for m in (sparse[0].norm1, sparse[2].norm2)] == [FormattedLayerNorm] * 2
    assert sparse[1].qkv.feature_major
    assert sparse[0].norm2.feature_major and not sparse[2].norm2.feature_major
    X = torch.randn(2, tokens, 64, device="cuda")
    sparse(X)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        Y = sparse(X)
    for _ in range(2):
        X.normal_()
        graph.replay()
        truth = copy.deepcopy(dense).double()(X.double())
        own = float((dense(X) - truth).abs().max())
        assert float((Y - truth).abs().max()) <= 4.0 * own
    st.densify_(sparse)
    assert torch.equal(sparse(X), dense(X)) and type(sparse[0].norm1) is nn.LayerNorm
