"""``spmm`` and ``linear`` on CUDA tensors: views, batches, gradients, compilation."""

from __future__ import annotations

import pytest
import torch

import sparse_triton as st
from sparse_triton import verify
from sparse_triton.call import Call
from tests.support import dense_weight, randn, weight

pytestmark = pytest.mark.gpu
ACTIVATIONS = (None, "relu", "gelu", "silu")


def ratio(Y: torch.Tensor, W: st.SparseMatrix, *call: object) -> float:
    made = Call(*call)  # type: ignore[arg-type]
    return verify.call_ratio(Y, W, made, verify.config_of(W, made))


def views(dtype: torch.dtype, K: int, N: int) -> dict[str, torch.Tensor]:
    """X [..., K, N] in forms that need adapting, surrounded by NaN."""
    wide = randn((2, K, N + 3), dtype, "cuda", 0)
    tokens = randn((2, N, K), dtype, "cuda", 1)
    return {
        "contiguous": randn((K, N), dtype, "cuda", 2),
        "batch": randn((2, 3, K, N), dtype, "cuda", 3),
        "misaligned": randn((K * N + 1,), dtype, "cuda", 4)[1:].view(K, N),
        "columns cut": wide[..., 1 : N + 1],
        "transposed": tokens.mT,
        "transposed, one": tokens[0].mT,
        "expanded": randn((K, 1), dtype, "cuda", 5).expand(2, K, N),
        "steps": randn((2 * K, N), dtype, "cuda", 6)[::2],
        "permuted": randn((K, 2, N), dtype, "cuda", 7).transpose(0, 1),
    }


@pytest.mark.parametrize("density", [0.1, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("N", [1, 49, 2304])
def test_views_and_batches(dtype: torch.dtype, N: int, density: float) -> None:
    W = weight("random", 48, 64, density).to("cuda")
    for name, X in views(dtype, 64, N).items():
        Y = st.spmm(W, X)
        assert Y.shape == (*X.shape[:-2], 48, N)
        assert Y.is_contiguous()
        assert ratio(Y, W, X, None, None, None, False) <= 1.0, name
        assert torch.equal(st.spmm(W, X), Y), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_epilogue_and_out(dtype: torch.dtype, activation: str | None) -> None:
    W = weight("empty_rows", 48, 64, 0.2).to("cuda")
    X, R = randn((2, 64, 1200), dtype, "cuda", 0), randn((2, 48, 1200), dtype, "cuda", 1)
    bias = randn((48,), dtype, "cuda", 2)
    Y = st.spmm(W, X, bias=bias, residual=R, activation=activation)
    assert ratio(Y, W, X, bias, R, activation, False) <= 1.0
    wide = torch.empty(2, 48, 2400, dtype=dtype, device="cuda")
    for out in (torch.empty_like(Y), torch.empty_like(Y.mT).mT, wide[..., ::2]):
        out.fill_(float("nan"))
        returned = st.spmm(W, X, bias=bias, residual=R, activation=activation, out=out)
        assert returned is out
        assert torch.equal(out, Y)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (7, 64), (2, 5, 64), (4, 700, 64), (0, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    W = weight("random", 48, 64).to("cuda")
    X, bias = randn(shape, dtype, "cuda", 0), randn((48,), dtype, "cuda", 1)
    Y = st.linear(X, W, bias, activation="relu")
    assert Y.shape == (*shape[:-1], 48)
    assert ratio(Y, W, X, bias, None, "relu", True) <= 1.0


@pytest.mark.parametrize(
    ("M", "K", "N", "batch"), [(0, 8, 9, 1), (8, 0, 9, 1), (8, 8, 0, 1), (8, 8, 9, 0)]
)
def test_nothing_to_multiply(M: int, K: int, N: int, batch: int) -> None:
    W = st.SparseMatrix.from_dense(torch.zeros(M, K, device="cuda"))
    bias = torch.arange(M, device="cuda").float()
    Y = st.spmm(W, torch.randn(batch, K, N, device="cuda"), bias=bias)
    assert torch.equal(Y, bias[:, None].expand(batch, M, N))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("token_major", [False, True])
def test_gradients(token_major: bool, activation: str | None) -> None:
    w = dense_weight("random", 48, 64).cuda()
    W = st.SparseMatrix.from_dense(w)
    X = torch.randn(3, 64, 700, device="cuda", requires_grad=True)
    bias = torch.randn(48, device="cuda", requires_grad=True)
    x = X.mT if token_major else X
    function = getattr(torch.nn.functional, activation) if activation else lambda y: y
    if token_major:
        ours = st.linear(x, W, bias, activation=activation)
        want = function(torch.nn.functional.linear(x, w, bias))
    else:
        ours = st.spmm(W, x, bias=bias, activation=activation)
        want = function(w @ x + bias[:, None])
    seed = torch.randn_like(ours)
    got = torch.autograd.grad(ours, (X, bias), seed)
    for a, b in zip(got, torch.autograd.grad(want, (X, bias), seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("form", ["matrix", "dense"])
def test_torch_compile(form: str) -> None:
    torch._dynamo.reset()
    w = dense_weight("random", 48, 64).cuda()
    W = st.SparseMatrix.from_dense(w) if form == "matrix" else w
    bias = torch.randn(48, device="cuda")

    def model(x: torch.Tensor) -> torch.Tensor:
        return st.spmm(W, x.sin(), bias=bias, activation="relu") + 1

    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for N in (33, 700, 2500):
        x = torch.randn(2, 64, N, device="cuda", requires_grad=True)
        got, want = compiled(x), model(x)
        torch.testing.assert_close(got, want)
        (a,), (b,) = (torch.autograd.grad(y.square().sum(), x) for y in (got, want))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("N", [40, 2500])
def test_opcheck(N: int) -> None:
    w = dense_weight("random", 48, 64).cuda()
    W = st.SparseMatrix.from_dense(w)
    X = torch.randn(64, N, device="cuda", requires_grad=True)
    options = (X, torch.randn(48, device="cuda"), None, "silu", False, False)
    parts = (W.row_offsets, W.column_indices, W.values)
    torch.library.opcheck(
        torch.ops.sparse_triton.spmm.default, (*parts, *options, 48, 64, W.weight_id)
    )
    torch.library.opcheck(torch.ops.sparse_triton.spmm_dense.default, (w, *options))


def test_other_device_is_named() -> None:
    W = weight("random", 8, 8)
    with pytest.raises(st.errors.DeviceError, match=r"X is on cuda:0, W on cpu; use W\.to\("):
        st.spmm(W, torch.randn(8, 4, device="cuda"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_second_device_while_the_first_is_current() -> None:
    for density in (0.1, 0.7):
        W = weight("random", 48, 64, density).to("cuda:1")
        X = torch.randn(64, 2304, device="cuda:1")
        assert ratio(st.spmm(W, X), W, X, None, None, None, False) <= 1.0
