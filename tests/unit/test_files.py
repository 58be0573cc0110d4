"""Torn and foreign files are named as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparse_triton.errors import FileFormatError, PatternError
from sparse_triton.files import read_npz, read_smtx
from sparse_triton.matrix import SparseMatrix

GOOD = {
    "row_offsets": np.array([0, 1, 1]),
    "column_indices": np.array([1]),
    "values": np.array([2.0], dtype=np.float32),
    "shape": np.array([2, 3]),
}
BAD_SMTX = [
    (b"", "is not an .smtx pattern"),
    (b"2, 3, 1", "is not an .smtx pattern"),
    (b"2, 3\n0 1 1\n0\n", "is not an .smtx pattern"),
    (b"a, b, c\n0 1 1\n0\n", "is not an .smtx pattern"),
    (b"2, 3, 1\n0 x 1\n0\n", "is not an .smtx pattern"),
    (b"1, 3, 1\n0 1\n99999999999999999999\n", "is not an .smtx pattern"),
    (bytes(range(128, 256)), "is not an .smtx pattern"),
    (b"2, 3, 2\n0 1 2\n0\n", r"promises 3 row offsets and 2 column indices, it holds 3 and 1"),
    (b"2, 3, 1\n0 1\n0\n", "the file is torn or mislabelled"),
]


@pytest.mark.parametrize(("content", "words"), BAD_SMTX)
def test_bad_smtx(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.smtx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read_smtx(path)


def test_smtx_without_entries(tmp_path: Path) -> None:
    path = tmp_path / "w.smtx"
    for content in ("2, 3, 0\n0 0 0\n\n", "2, 3, 0\n0 0 0"):
        path.write_text(content)
        assert SparseMatrix.from_smtx(path).nnz == 0


def test_smtx_that_lies_about_columns(tmp_path: Path) -> None:
    path = tmp_path / "w.smtx"
    path.write_text("1, 3, 1\n0 1\n7\n")
    with pytest.raises(PatternError, match=r"must lie in \[0, 3\), found 7"):
        SparseMatrix.from_smtx(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_smtx(tmp_path / "none.smtx")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")


def test_npz_round_trip(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **GOOD)
    offsets, columns, values, shape = read_npz(tmp_path / "w.npz")
    assert shape == (2, 3)
    for got, name in ((offsets, "row_offsets"), (columns, "column_indices"), (values, "values")):
        assert np.array_equal(got, GOOD[name])


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_torn_npz(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, **GOOD)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(FileFormatError, match=r"is not a readable \.npz file"):
        read_npz(path)


def test_npz_with_a_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, **{**GOOD, "row_offsets": np.arange(5000) % 7})
    content = bytearray(path.read_bytes())
    content[60:120] = bytes(60)
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match=r"is not a readable \.npz file"):
        read_npz(path)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with path.open("wb") as f:
        np.save(f, np.ones(3))
    with pytest.raises(FileFormatError, match=r"is not a readable \.npz file"):
        read_npz(path)
    np.savez(path, **{**GOOD, "values": np.array([None])})
    with pytest.raises(FileFormatError, match="Object arrays"):
        read_npz(path)
    np.savez(path, **{name: a for name, a in GOOD.items() if name != "shape"})
    with pytest.raises(FileFormatError, match=r"lacks the arrays \['shape'\]"):
        read_npz(path)
    for shape in (np.array([1, 2, 3]), np.array([1.5, 2.0]), np.array(["a", "b"])):
        np.savez(path, **{**GOOD, "shape": shape})
        with pytest.raises(FileFormatError, match="shape must hold two integers"):
            read_npz(path)
