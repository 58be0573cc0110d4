"""Readers of the file formats pruned weights come in."""

from __future__ import annotations

import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparse_triton.errors import FileFormatError
from sparse_triton.pattern import Int64


class Pattern(NamedTuple):
    row_offsets: Int64
    column_indices: Int64
    shape: tuple[int, int]


def read_smtx(path: str | PathLike[str]) -> Pattern:
    """A DLMC pattern: ``rows, columns, nnz`` / row offsets / column indices, one line each.

    Source: Gale, Zaharia, Young, Elsen, Sparse GPU Kernels for Deep Learning, SC 2020.
    """
    try:
        lines = Path(path).read_text().split("\n")
        M, K, nnz = (int(n) for n in lines[0].replace(",", " ").split())
        offsets = np.array(lines[1].split(), dtype=np.int64)
        columns = np.array(lines[2].split() if len(lines) > 2 else [], dtype=np.int64)
    except (ValueError, IndexError, OverflowError) as e:
        raise FileFormatError(
            f"{path} is not an .smtx pattern (a line 'rows, columns, nnz', a line of row offsets, "
            f"a line of column indices): {e}"
        ) from e
    if len(offsets) != M + 1 or len(columns) != nnz:
        raise FileFormatError(
            f"{path} promises {M + 1} row offsets and {nnz} column indices, "
            f"it holds {len(offsets)} and {len(columns)}; the file is torn or mislabelled"
        )
    return Pattern(offsets, columns, (M, K))


def read_npz(path: str | PathLike[str]) -> tuple[Any, Any, Any, tuple[int, int]]:
    """Row offsets, column indices, values and shape out of an ``.npz``."""
    names = ("row_offsets", "column_indices", "values", "shape")
    try:
        with np.load(path, allow_pickle=False) as z:
            missing = [n for n in names if n not in z.files]
            if missing:
                raise FileFormatError(f"{path} lacks the arrays {missing}; it holds {z.files}")
            offsets, columns, values, shape = (z[n] for n in names)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise FileFormatError(f"{path} is not a readable .npz file: {e}") from e
    if shape.size != 2 or shape.dtype.kind not in "iu":
        raise FileFormatError(f"{path}: shape must hold two integers, got {shape.tolist()}")
    return offsets, columns, values, (int(shape.flat[0]), int(shape.flat[1]))
