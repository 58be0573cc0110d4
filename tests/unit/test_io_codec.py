"""Packed weights: the same bits back, the fewest bytes, and no trust in what is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix
from sparse_triton.errors import FileFormatError
from sparse_triton.io.codec import ENCODINGS, Packing, decode, encode, smallest
from tests.strategies import matrices
from tests.support import PATTERNS, weight


@given(matrices(20), st.sampled_from(ENCODINGS))
def test_every_encoding_gives_the_matrix_back(W: SparseMatrix, encoding: str) -> None:
    packing, parts = encode(W, Packing(encoding, *W.shape, W.nnz))  # type: ignore[arg-type]
    back = decode(packing, parts)
    assert (back.pattern_hash, back.value_hash, back.dtype) == (
        W.pattern_hash,
        W.value_hash,
        W.dtype,
    )
    pattern = [t for name, t in parts.items() if name != "values"]
    assert sum(t.numel() * t.element_size() for t in pattern) == packing.pattern_bytes


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.floats(0, 1))
def test_the_smallest_legal_packing_is_taken(M: int, K: int, density: float) -> None:
    nnz = int(M * K * density)
    sizes = {"bitmap": -(-M * K // 8), "index32": 4 * nnz + M * (2 if K < 2**16 else 4)}
    if K <= 2**16:
        sizes["index16"] = 2 * nnz + M * (2 if K < 2**16 else 4)
    chosen = smallest(M, K, nnz)
    assert chosen.pattern_bytes == min(sizes.values()) == sizes[chosen.encoding]


def test_which_encoding_is_taken() -> None:
    assert smallest(512, 512, 26214).encoding == "bitmap"
    assert smallest(512, 512, 2621).encoding == "index16"
    assert smallest(4, 2**20, 100).encoding == "index32"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_with_16_bit_columns_at_their_limit(pattern: str) -> None:
    W = weight(pattern, 3, 2**16, density=0.001)
    packing, parts = encode(W, Packing("index16", *W.shape, W.nnz))
    assert parts["columns"].dtype is torch.uint16
    assert decode(packing, parts).pattern_hash == W.pattern_hash


def test_nan_inf_and_denormals_keep_their_bits() -> None:
    values = torch.tensor([float("nan"), float("inf"), 1e-45, -3.0])
    values.view(torch.int32)[0] |= 0x1234  # a payload
    W = SparseMatrix.from_csr([0, 2, 4], [0, 2, 1, 2], values, (2, 3))
    assert torch.equal(decode(*encode(W)).values.view(torch.int32), W.values.view(torch.int32))


def packed(encoding: str) -> tuple[Packing, dict[str, torch.Tensor]]:
    W = weight("random", 5, 7, density=0.4)
    return encode(W, Packing(encoding, *W.shape, W.nnz))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["index16", "index32"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["columns"].numpy().__setitem__(0, 7), r"must lie in \[0, 7\)"),
        (lambda p: p["columns"].numpy().__setitem__(slice(None), 0), "row 0"),
        (lambda p: p["lengths"].numpy().__setitem__(0, 9), "end at nnz"),
        (lambda p: p["values"].__setitem__(0, 0.0), "non-zeros are promised"),
        (lambda p: p.pop("lengths"), "needs lengths"),
        (lambda p: p.update(columns=p["columns"][:-1]), r"columns must be torch.uint(16|32) \["),
        (lambda p: p.update(lengths=p["lengths"].to(torch.int64)), "lengths must be torch.uint16"),
        (lambda p: p.update(values=p["values"].double()), "float32, float16 or bfloat16"),
        (lambda p: p.update(values=p["values"][None]), "values must be"),
    ],
)
def test_damaged_indices(encoding: str, change, words: str) -> None:  # type: ignore[no-untyped-def]
    packing, parts = packed(encoding)
    change(parts)
    with pytest.raises(FileFormatError, match=words):
        decode(packing, parts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["bitmap"].__setitem__(0, p["bitmap"][0] ^ 1), "one value per column index"),
        (lambda p: p["bitmap"].__setitem__(-1, p["bitmap"][-1] | 1), "after the last"),
        (lambda p: p.update(bitmap=p["bitmap"][:-1]), r"bitmap must be torch.uint8 \[5\]"),
    ],
)
def test_damaged_bitmaps(change, words: str) -> None:  # type: ignore[no-untyped-def]
    packing, parts = packed("bitmap")
    change(parts)
    with pytest.raises(FileFormatError, match=words):
        decode(packing, parts)


def test_a_90_percent_sparse_weight_takes_13_percent() -> None:
    w = np.zeros(512 * 2048, dtype=np.float32)
    w[np.random.default_rng(0).permutation(w.size)[: w.size // 10]] = 1.0
    _, parts = encode(SparseMatrix.from_dense(w.reshape(512, 2048)))
    assert sum(t.numel() * t.element_size() for t in parts.values()) / (4 * w.size) < 0.132
