"""Each mistake in a call has its own message: law, values, remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sparse_triton as st
from sparse_triton import errors, executor
from tests.support import weight

W = weight("random", 4, 6, 0.5)
X = torch.zeros(6, 3)

MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"X": torch.zeros(6)}, errors.ShapeError, r"X must have shape \[\.\.\., K, N\], got \(6,\)"),
    ({"X": torch.zeros(5, 3)}, errors.ShapeError, r"K = 6 columns, X \[\.\.\., K, N\] has K = 5"),
    ({"X": torch.zeros(3, 6)}, errors.ShapeError, r"looks transposed, use X\.mT"),
    ({"X": X.double()}, errors.DtypeError, r"got torch\.float64; use X\.float\(\)"),
    ({"X": X.int()}, errors.DtypeError, r"got torch\.int32"),
    ({"X": X.to_sparse()}, errors.ShapeError, r"must be a dense tensor .* use X\.to_dense\(\)"),
    ({"X": [[1.0]]}, errors.InputError, "X must be a torch tensor, got list"),
    ({"bias": torch.zeros(3)}, errors.ShapeError, r"bias must have shape \(4,\), got \(3,\)"),
    ({"bias": torch.zeros(4, 1)}, errors.ShapeError, r"bias must have shape \(4,\), got \(4, 1\)"),
    ({"bias": torch.zeros(4).half()}, errors.DtypeError, r"bias must have X's dtype .* bias\.to\("),
    ({"residual": torch.zeros(4, 1)}, errors.ShapeError, r"residual must have shape \(4, 3\)"),
    ({"residual": torch.zeros(4, 3).double()}, errors.DtypeError, "residual must have X's dtype"),
    ({"bias": torch.zeros(4, device="meta")}, errors.DeviceError, "bias is on meta, X on cpu"),
    ({"activation": "tanh"}, errors.ActivationError, "one of relu, gelu, silu, got 'tanh'"),
    ({"out": torch.zeros(4, 4)}, errors.ShapeError, r"out must have shape \(4, 3\), got \(4, 4\)"),
    ({"out": torch.zeros(4, 3).half()}, errors.DtypeError, "out must have X's dtype"),
    ({"W": "w"}, errors.InputError, "W must be a SparseMatrix or a torch tensor, got str"),
    ({"W": torch.zeros(6)}, errors.ShapeError, r"W must have rank 2"),
    ({"W": torch.zeros(4, 6).double()}, errors.DtypeError, r"use W\.float\(\)"),
]


@pytest.mark.parametrize(("change", "error", "words"), MISTAKES)
def test_spmm(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"W": W, "X": X, **change}
    with pytest.raises(error, match=words) as caught:
        st.spmm(arguments.pop("W"), arguments.pop("X"), **arguments)
    assert isinstance(caught.value, errors.SparseTritonError)
    assert isinstance(caught.value, ValueError)


def test_linear() -> None:
    with pytest.raises(errors.ShapeError, match=r"X must have shape \[\.\.\., K\], got \(\)"):
        st.linear(torch.tensor(1.0), W)
    with pytest.raises(errors.ShapeError, match=r"X \[\.\.\., K\] has K = 3 .* use X\.mT"):
        st.linear(X, W)
    with pytest.raises(errors.ShapeError, match=r"has K = 5 in \(5,\)$"):
        st.linear(torch.zeros(5), W)


def test_devices() -> None:
    far = W.to("meta")
    with pytest.raises(errors.DeviceError, match=r"X is on cpu, W on meta; use W\.to\('cpu'\)"):
        executor.execute(far, executor.Call(X, None, None, None, False))
    with pytest.raises(errors.DeviceError, match="kernels run on cpu and cuda, X is on meta"):
        executor.execute(far, executor.Call(X.to("meta"), None, None, None, False))


def overlapping() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    buffer = torch.zeros(100)
    out, wide = buffer[:12].view(4, 3), buffer[20:44].view(4, 6)
    return {
        "X": ({"X": buffer[11:29].view(6, 3), "out": out}, "X"),
        "bias": ({"bias": buffer[8:12], "out": out}, "bias"),
        "residual": ({"residual": out, "out": out}, "residual"),
        "crossed": ({"residual": wide[:, :3], "out": wide[:, 3:]}, "residual"),
    }


@pytest.mark.parametrize("name", overlapping())
def test_out_shares_no_memory_with_what_is_read(name: str) -> None:
    change, word = overlapping()[name]
    with pytest.raises(errors.ShapeError, match=f"out must not share memory with {word}"):
        st.spmm(W, **{"X": X, **change})


def test_out_may_be_another_part_of_the_same_storage() -> None:
    buffer = torch.randn(18 + 12 + 4 + 12)
    x, bias = buffer[:18].view(6, 3), buffer[18:22]
    residual, out = buffer[22:34].view(4, 3), buffer[34:].view(4, 3)
    want = st.spmm(W, x, bias=bias, residual=residual)
    st.spmm(W, x, bias=bias, residual=residual, out=out)
    assert torch.equal(out, want)


def test_out_must_not_be_expanded() -> None:
    with pytest.raises(errors.ShapeError, match="out must not be an expanded tensor"):
        st.spmm(W, X, out=torch.zeros(4, 1).expand(4, 3))


@pytest.mark.parametrize("name", ["X", "bias", "residual", "out"])
def test_out_records_no_gradients(name: str) -> None:
    operands = {
        "X": X, "bias": torch.zeros(4), "residual": torch.zeros(4, 3), "out": torch.zeros(4, 3)
    }  # fmt: skip
    operands[name] = operands[name].clone().requires_grad_()
    with pytest.raises(errors.InputError, match=r"out= does not record gradients"):
        st.spmm(W, **operands)
    with torch.no_grad():
        assert st.spmm(W, **operands) is operands["out"]
