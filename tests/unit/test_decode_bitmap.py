"""The bitmap format of family decode: records, and the PTX that multiplies them, interpreted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from sparse_triton import SparseMatrix
from sparse_triton.kernels.decode.bitmap import emit_bitmap
from sparse_triton.kernels.decode.bitmap_pack import Records, pack_bitmap, unpack
from sparse_triton.kernels.decode.bitmap_program import Bitmap, BitmapShape
from sparse_triton.partition import NO_ROW
from tests.ptx_block import Block
from tests.strategies import matrices
from tests.support import PATTERNS, dense_weight

DENSITIES = [0.0, 0.001, 0.1, 0.44, 0.5, 0.9, 1.0]
STATIC = 16


def half(pattern: str, M: int, K: int, density: float) -> SparseMatrix:
    return SparseMatrix.from_dense(dense_weight(pattern, M, K, density).half())


def unpacked(records: Records, shape: BitmapShape, size: tuple[int, int]) -> np.ndarray:
    """[M, K] bits of the values."""
    strips = -(-size[1] // shape.width)
    out = np.zeros((size[0], strips * shape.width), dtype=np.int16)
    for unit, rows in enumerate(records.rows.reshape(-1, shape.rows)):
        bits = unpack(records, shape, unit, strips)
        assert (bits[rows == NO_ROW] == 0).all()
        out[rows[rows != NO_ROW]] = bits[rows != NO_ROW]
    assert (out[:, size[1] :] == 0).all()
    return out[:, : size[1]]


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("block_m", [16, 32, 64])
def test_records_hold_each_entry_once(density: float, block_m: int) -> None:
    W, shape = half("random", 45, 333, density), BitmapShape(block_m, 8, 1, 2)
    records = pack_bitmap(W.csr, shape, "float16")
    bits = W.to_dense().view(torch.int16).numpy()
    assert np.array_equal(unpacked(records, shape, W.shape), bits)
    count = len(records.first) - 3
    assert records.words.nbytes <= 2 * W.nnz + count * (128 + 16)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_records_of_patterns(pattern: str) -> None:
    W, shape = half(pattern, 45, 333, 0.03), BitmapShape(32, 8, 1, 2)
    bits = W.to_dense().view(torch.int16).numpy()
    assert np.array_equal(unpacked(pack_bitmap(W.csr, shape, "float16"), shape, W.shape), bits)


@given(W=matrices(most=24, dtypes=(torch.float16, torch.bfloat16)))
def test_any_pattern_survives(W: SparseMatrix) -> None:
    shape = BitmapShape(16, 8, 1, 2)
    records = pack_bitmap(W.csr, shape, str(W.dtype).removeprefix("torch."))
    bits = W.to_dense().view(torch.int16).numpy()
    assert np.array_equal(unpacked(records, shape, W.shape), bits)


def product(W: SparseMatrix, X: np.ndarray, b: Bitmap) -> np.ndarray:
    """[block_m, columns] what the PTX of one program computes; X [N, K] token-major."""
    records = pack_bitmap(W.csr, b.shape, b.dtype)
    parts = [records.words, records.first, X]
    starts, at = [], 1024
    for part in parts:
        starts.append(at)
        at += -(-part.nbytes // 256) * 256
    memory = np.zeros(at + 4096, dtype=np.uint8)
    for part, start in zip(parts, starts, strict=True):
        memory[start : start + part.nbytes] = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
    asm = emit_bitmap(b)
    names = [f"${b.shape.outputs + i}" for i in range(8)]
    N, K = X.shape
    values = [*starts, 1, K, N, records.stage_bytes]
    threads = np.arange(b.shape.threads, dtype=np.uint64)
    operands = {n: np.full_like(threads, v) for n, v in zip(names, values, strict=False)}
    operands[names[7]] = threads
    window = b.shape.window_bytes(records.stage_bytes)
    warps = Block(asm.text.split("\n"), memory, STATIC + window).run(operands)
    sums = np.concatenate(
        [np.concatenate([w[f"${j}"] for w in warps]) for j in range(b.shape.outputs)]
    )
    out = sums.astype(np.uint32).view(np.float32)[: b.shape.block_m * b.shape.columns]
    by_place = out.reshape(b.shape.block_m, b.shape.columns)[:, :N]
    result = np.zeros((W.shape[0], N), dtype=np.float32)
    rows = records.rows[0]
    result[rows[rows != NO_ROW]] = by_place[rows != NO_ROW]
    return result


@pytest.mark.parametrize(
    ("M", "K", "N", "block_m", "Gy", "stages", "density", "dtype"),
    [
        (16, 128, 8, 16, 1, 2, 0.5, "float16"),
        (30, 168, 5, 32, 2, 3, 0.44, "float16"),
        (61, 64, 24, 64, 1, 3, 0.5, "bfloat16"),
        (13, 136, 16, 16, 2, 4, 1.0, "float16"),
        (16, 64, 1, 16, 4, 3, 0.1, "bfloat16"),
        (16, 77, 32, 16, 1, 3, 0.3, "float16"),
    ],
)
def test_a_program_multiplies(
    M: int, K: int, N: int, block_m: int, Gy: int, stages: int, density: float, dtype: str
) -> None:
    rng = np.random.default_rng(K)
    w = rng.integers(-4, 5, (M, K)) * (rng.random((M, K)) < density)
    x = rng.integers(-4, 5, (N, K))
    W = SparseMatrix.from_dense(torch.from_numpy(w).to(getattr(torch, dtype)))
    X = torch.from_numpy(x).to(getattr(torch, dtype)).view(torch.int16).numpy()
    columns = max(8, 1 << (N - 1).bit_length())
    b = Bitmap(K, dtype, BitmapShape(block_m, columns, Gy, stages), columns == N, K % 8 == 0, False)
    assert np.array_equal(product(W, X, b), (w @ x.T).astype(np.float32))


def test_absent_elements_do_not_multiply() -> None:
    rng = np.random.default_rng(3)
    w = rng.integers(-4, 5, (20, 64)) * (rng.random((20, 64)) < 0.05)
    x = rng.integers(-4, 5, (3, 64)).astype(np.float16)
    unused = ~(w != 0).any(axis=0)
    W = SparseMatrix.from_dense(torch.from_numpy(w).half())
    b = Bitmap(64, "float16", BitmapShape(32, 8, 1, 3), False, True, False)
    want = (w @ x.T.astype(np.float64)).astype(np.float32)
    x[1, unused] = np.inf
    assert np.array_equal(product(W, x.view(np.int16), b), want)
    k = int(np.flatnonzero(~unused)[0])
    x[1, k] = np.inf
    assert np.array_equal(~np.isfinite(product(W, x.view(np.int16), b)[:, 1]), w[:, k] != 0)
