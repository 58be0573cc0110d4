"""``spmm`` and ``linear`` on the CPU: shapes, views, ``out``, gradients, registration."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparse_triton
from sparse_triton import SparseMatrix, linear, spmm, verify
from sparse_triton.call import Call
from sparse_triton.numerics import gamma
from tests.strategies import ACTIVATIONS, DTYPES, matrices
from tests.support import dense_weight, randn, weight

F = torch.nn.functional


def ratio(Y: torch.Tensor, W: SparseMatrix, *call: object) -> float:
    made = Call(*call)  # type: ignore[arg-type]
    return verify.call_ratio(Y, W, made, verify.config_of(W, made))


@given(
    W=matrices(most=20),
    batch=st.sampled_from([(), (1,), (3,), (2, 2), (0,)]),
    N=st.sampled_from([0, 1, 2, 17, 64]),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    epilogue=st.tuples(st.booleans(), st.booleans()),
)
def test_spmm(
    W: SparseMatrix, batch: tuple[int, ...], N: int, dtype: torch.dtype,
    activation: str | None, epilogue: tuple[bool, bool],
) -> None:  # fmt: skip
    M, K = W.shape
    X = randn((*batch, K, N), dtype, "cpu", 0)
    bias = randn((M,), dtype, "cpu", 1) if epilogue[0] else None
    residual = randn((*batch, M, N), dtype, "cpu", 2) if epilogue[1] else None
    Y = spmm(W, X, bias=bias, residual=residual, activation=activation)
    assert (Y.shape, Y.dtype) == ((*batch, M, N), dtype)
    assert ratio(Y, W, X, bias, residual, activation, False) <= 1.0
    again = spmm(W, X, bias=bias, residual=residual, activation=activation)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    assert torch.equal(Y.view(bits), again.view(bits))


@given(
    W=matrices(most=20),
    shape=st.sampled_from([(), (1,), (7,), (2, 3), (0,), (2, 0, 3)]),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_linear(
    W: SparseMatrix, shape: tuple[int, ...], dtype: torch.dtype, activation: str | None
) -> None:
    M, K = W.shape
    X, bias = randn((*shape, K), dtype, "cpu", 0), randn((M,), dtype, "cpu", 1)
    Y = linear(X, W, bias, activation=activation)
    assert (Y.shape, Y.dtype) == ((*shape, M), dtype)
    assert ratio(Y, W, X, bias, None, activation, True) <= 1.0


@pytest.mark.parametrize(("M", "K", "N"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_extents(M: int, K: int, N: int) -> None:
    W = SparseMatrix.from_dense(torch.zeros(M, K))
    bias = torch.arange(M).float()
    assert torch.equal(spmm(W, torch.ones(K, N), bias=bias), bias[:, None].expand(M, N))
    assert torch.equal(linear(torch.ones(N, K), W, bias), bias.expand(N, M))
    X = torch.ones(K, N, requires_grad=True)
    spmm(W, X).sum().backward()
    assert torch.equal(X.grad, torch.zeros(K, N))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zero_weight_stops_nan(dtype: torch.dtype) -> None:
    W = SparseMatrix.from_dense(torch.zeros(3, 4))
    assert torch.equal(spmm(W, torch.full((4, 5), torch.nan, dtype=dtype)), torch.zeros(3, 5))


def views() -> dict[str, torch.Tensor]:
    return {
        "misaligned": randn((64 * 9 + 1,), torch.float32, "cpu", 0)[1:].view(64, 9),
        "columns cut": randn((2, 64, 12), torch.float32, "cpu", 1)[..., 1:10],
        "transposed": randn((2, 9, 64), torch.float32, "cpu", 2).mT,
        "transposed, one": randn((9, 64), torch.float32, "cpu", 3).mT,
        "expanded columns": randn((64, 1), torch.float32, "cpu", 4).expand(2, 64, 9),
        "expanded batch": randn((64, 9), torch.float32, "cpu", 5).expand(3, 64, 9),
        "steps": randn((128, 18), torch.float32, "cpu", 6)[::2, ::2],
        "permuted": randn((64, 2, 9), torch.float32, "cpu", 7).transpose(0, 1),
        "flipped transposed batch": randn((9, 2, 64), torch.float32, "cpu", 8).permute(1, 2, 0),
    }


@pytest.mark.parametrize("density", [0.1, 0.7])
@pytest.mark.parametrize("name", views())
def test_views(name: str, density: float) -> None:
    """NaN stands around every one of them, and nothing of it comes in."""
    X, W = views()[name], weight("random", 48, 64, density)
    Y = spmm(W, X)
    assert Y.is_contiguous()
    assert ratio(Y, W, X, None, None, None, False) <= 1.0
    R = randn((*X.shape[:-2], 9, 48), torch.float32, "cpu", 9).mT
    bias = randn((96,), torch.float32, "cpu", 10)[::2]
    Y = spmm(W, X, bias=bias, residual=R)
    assert ratio(Y, W, X, bias, R, None, False) <= 1.0
    tokens = linear(X.mT, W, bias)
    assert ratio(tokens, W, X.mT, bias, None, None, True) <= 1.0


def test_shapes_in_turn_do_not_mix() -> None:
    """Launches are remembered: each call gets that of its own shapes and options."""
    W = weight("random", 16, 24, 0.2)
    for _ in range(2):
        for N in (1, 4, 24):
            for dtype in DTYPES:
                X = randn((24, N), dtype, "cpu", N)
                assert ratio(spmm(W, X), W, X, None, None, None, False) <= 1.0
                Y = linear(X.mT.contiguous(), W, activation="relu")
                assert ratio(Y, W, X.mT.contiguous(), None, None, "relu", True) <= 1.0
                Y = linear(X.mT.contiguous(), W)
                assert ratio(Y, W, X.mT.contiguous(), None, None, None, True) <= 1.0


@pytest.mark.parametrize("density", [0.1, 0.7])
def test_out(density: float) -> None:
    W, X = weight("random", 16, 24, density), torch.randn(2, 24, 10)
    want = spmm(W, X, activation="silu")
    wide = torch.full((2, 16, 20), torch.nan)
    offset = torch.full((2 * 16 * 10 + 1,), torch.nan)[1:].view(2, 16, 10)
    for out in (torch.empty(2, 16, 10), torch.empty(2, 10, 16).mT, wide[..., ::2], offset):
        version = out._version
        assert spmm(W, X, activation="silu", out=out) is out
        assert torch.equal(out, want)
        assert out._version > version, "autograd and remembered weights must see the change"
    assert wide[..., 1::2].isnan().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("call", ["spmm", "linear", "linear of one vector"])
def test_gradients(call: str, activation: str | None) -> None:
    w = dense_weight("ragged", 12, 16, 0.2)
    W = SparseMatrix.from_dense(w)
    function = getattr(F, activation) if activation else lambda y: y
    bias = torch.randn(12, requires_grad=True)
    inputs: tuple[torch.Tensor, ...]
    if call == "spmm":
        X = torch.randn(3, 16, 5, requires_grad=True)
        R = torch.randn(3, 12, 5, requires_grad=True)
        ours = spmm(W, X, bias=bias, residual=R, activation=activation)
        want, inputs = function(w @ X + bias[:, None] + R), (X, bias, R)
    else:
        X = torch.randn((4, 2, 16) if call == "linear" else (16,), requires_grad=True)
        ours = linear(X, W, bias, activation=activation)
        want, inputs = function(F.linear(X, w, bias)), (X, bias)
    torch.testing.assert_close(ours, want)
    seed = torch.randn_like(want)
    got = torch.autograd.grad(ours, inputs, seed)
    for a, b in zip(got, torch.autograd.grad(want, inputs, seed), strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_details() -> None:
    W = weight("random", 6, 8, 0.5)
    X = torch.randn(8, 3, requires_grad=True)
    spmm(W, X).sum().backward()  # an expanded gradient
    torch.testing.assert_close(X.grad, W.to_dense().sum(0)[:, None].expand(8, 3))
    bias = torch.zeros(6, requires_grad=True)
    Y = spmm(W, X.detach(), bias=bias)
    W.__dict__.pop("transposed", None)
    Y.sum().backward()
    assert "transposed" not in W.__dict__, "the bias alone needs no product"
    Y = spmm(W, X, activation="relu")
    blocked = Y.detach() <= 0
    (g,) = torch.autograd.grad(Y, X, torch.where(blocked, torch.inf, 1.0))
    assert g.isfinite().all(), "what relu blocks does not come through as Inf * 0"


def test_second_gradient() -> None:
    """A polynomial with positive coefficients: its value at |w|, |X| bounds the error."""
    w = dense_weight("random", 6, 8, 0.5)
    X = torch.randn(8, 3)

    def penalty(product: Callable[[torch.Tensor], torch.Tensor], X: torch.Tensor) -> torch.Tensor:
        X = X.clone().requires_grad_()
        (g,) = torch.autograd.grad(product(X).pow(3).sum(), X, create_graph=True)
        return torch.autograd.grad(g.square().sum(), X)[0]

    W, w64 = SparseMatrix.from_dense(w), w.double()
    got = penalty(lambda x: spmm(W, x), X)
    truth = penalty(lambda x: w64 @ x, X.double())
    magnitude = penalty(lambda x: w64.abs() @ x, X.double().abs())
    # Roundings in a chain: y 12; 3y^2 26; W^T of it 35; W of that 48; times y 62; W^T again 71.
    assert ((got - truth).abs() <= float(gamma(71)) * magnitude).all()


@pytest.mark.parametrize(
    ("activation", "token_major", "transposed"),
    [("silu", False, False), ("relu", True, False), (None, True, True)],
)
def test_opcheck(activation: str | None, token_major: bool, transposed: bool) -> None:
    w = dense_weight("random", 6, 8, 0.5)
    W = SparseMatrix.from_dense(w)
    M, K = (8, 6) if transposed else (6, 8)
    X = torch.randn((3, K) if token_major else (K, 3), requires_grad=True)
    options = (X, torch.randn(M, requires_grad=True), None, activation, token_major, transposed)
    parts = (W.row_offsets, W.column_indices, W.values)
    ops = torch.ops.sparse_triton
    torch.library.opcheck(ops.spmm.default, (*parts, *options, 6, 8, W.weight_id))
    torch.library.opcheck(ops.spmm_dense.default, (w, *options))


class Model(torch.nn.Module):
    """One spmm and one linear, the weight as a matrix or as a dense parameter."""

    def __init__(self, form: str) -> None:
        super().__init__()
        w = dense_weight("random", 12, 16, 0.2)
        self.W = SparseMatrix.from_dense(w) if form == "matrix" else torch.nn.Parameter(w)
        self.bias = torch.nn.Parameter(torch.randn(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = spmm(self.W, x.sin(), bias=self.bias, activation="gelu")
        return linear(x.mT, self.W, activation="relu").mT + y


@pytest.mark.parametrize("form", ["matrix", "dense"])
def test_torch_compile(form: str) -> None:
    torch._dynamo.reset()
    model = Model(form)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((16, 5), (2, 16, 7), (2, 16, 9)):
        x = torch.randn(shape, requires_grad=True)
        torch.testing.assert_close(compiled(x), model(x))
        (a,), (b,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (compiled, model))
        torch.testing.assert_close(a, b)
    if form == "dense":
        with torch.no_grad():
            model.W.mul_(3)
        torch.testing.assert_close(compiled(x), model(x))


def test_export_and_load_in_a_new_process(tmp_path: Path) -> None:
    model, x = Model("matrix").eval(), torch.randn(2, 16, 7)
    dynamic = {"x": {2: torch.export.Dim("N", min=2, max=512)}}
    program = torch.export.export(model, (x,), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "model.pt2")
    longer = torch.randn(2, 16, 33)
    torch.save((longer, model(longer).detach()), tmp_path / "pair.pt")
    code = (
        "import torch, sparse_triton\n"
        f"x, want = torch.load({str(tmp_path / 'pair.pt')!r})\n"
        f"model = torch.export.load({str(tmp_path / 'model.pt2')!r}).module()\n"
        "torch.testing.assert_close(model(x), want)\n"
    )
    root = Path(sparse_triton.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=root)


def test_inference_mode() -> None:
    w = dense_weight("random", 12, 16, 0.2)
    with torch.inference_mode():
        W = SparseMatrix.from_dense(w)
        X = torch.randn(16, 5)
        inside = spmm(W, X)
    torch.testing.assert_close(inside, w @ X)
    Y = torch.randn(16, 5, requires_grad=True)
    spmm(W, Y).sum().backward()
    torch.testing.assert_close(Y.grad, w.sum(0)[:, None].expand(16, 5))


@pytest.mark.parametrize("density", [0.1, 0.8])
def test_autocast(density: float) -> None:
    """Casts X, bias and residual like torch.matmul; sums stay in float32."""
    W = weight("random", 12, 16, density)
    X, bias = torch.randn(16, 5, requires_grad=True), torch.randn(12, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        Y = spmm(W, X, bias=bias, activation="gelu")
        assert linear(X.mT.half(), W, bias).dtype == torch.bfloat16
    assert Y.dtype == torch.bfloat16
    low = [t.detach().bfloat16() for t in (X, bias)]
    assert ratio(Y.detach(), W, low[0], low[1], None, "gelu", False) <= 1.0
    Y.float().sum().backward()
    assert X.grad.dtype == bias.grad.dtype == torch.float32
    out = torch.empty(12, 5, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        spmm(W, X.half(), out=out)  # as given: out= is not cast by autocast
    assert ratio(out, W, X.detach().half(), None, None, None, False) <= 1.0


def test_models_can_be_copied_after_a_call() -> None:
    model, x = Model("matrix"), torch.randn(16, 5)
    want = model(x)
    assert torch.equal(copy.deepcopy(model)(x), want)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap() -> None:
    W, X = weight("random", 4, 6, 0.5), torch.randn(3, 6, 2)
    assert torch.equal(torch.func.vmap(lambda x: spmm(W, x))(X), spmm(W, X))
