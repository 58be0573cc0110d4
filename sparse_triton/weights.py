"""Weights given as plain tensors: analysed once, remembered as long as they live unchanged.

A dense tensor is known by its storage (views and detached copies of one parameter are one weight)
and by its version counter, which every in-place change through autograd raises. A change through
``.data`` or another library is not seen: call ``forget()``.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from sparse_triton.device import refuse_capture
from sparse_triton.errors import InputError
from sparse_triton.matrix import LIVE, SparseMatrix

MAX_REMEMBERED = 4096

_Remembered = tuple[tuple[StorageWeakRef, ...], SparseMatrix]
_by_tensor: OrderedDict[tuple[Any, ...], _Remembered] = OrderedDict()
_rebuilt: OrderedDict[tuple[str, torch.device], SparseMatrix] = OrderedDict()
_analysing = threading.RLock()


def as_matrix(W: SparseMatrix | torch.Tensor) -> SparseMatrix:
    """The sparse matrix behind a weight argument; analysis happens on first sight.

    Raises ``InputError`` for anything that is not a ``SparseMatrix`` or a tensor.
    """
    if isinstance(W, SparseMatrix):
        return W
    if not isinstance(W, torch.Tensor):
        raise InputError(
            f"W must be a SparseMatrix or a torch tensor, got {type(W).__name__}; "
            "see SparseMatrix.from_dense, from_scipy, from_csr, from_smtx"
        )
    if W.is_inference():
        _warn_inference()
        return SparseMatrix.from_torch(W)
    key = _key(W)
    known = _by_tensor.get(key)
    if known is not None and not _gone(known[0]):
        return known[1]
    refuse_capture(W.device, "this W was never seen before")
    with _analysing:
        known = _by_tensor.get(key)
        return known[1] if known is not None and not _gone(known[0]) else _analyse(W, key)


def _analyse(W: torch.Tensor, key: tuple[Any, ...]) -> SparseMatrix:
    matrix = SparseMatrix.from_torch(W)
    _drop_other_versions(key)
    _by_tensor[key] = (tuple(StorageWeakRef(p.untyped_storage()) for p in _parts(W)), matrix)
    if len(_by_tensor) > MAX_REMEMBERED:
        _by_tensor.popitem(last=False)
    return matrix


def _gone(storages: tuple[StorageWeakRef, ...]) -> bool:
    """Whether a part of the weight was freed. Until it is dropped here, its address stays taken."""
    return any(storage.expired() for storage in storages)


def _parts(W: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors whose storages make up the weight."""
    if W.layout is torch.strided:
        return (W,)
    if W.layout is torch.sparse_coo:
        return W._indices(), W._values()
    if W.layout in (torch.sparse_csr, torch.sparse_bsr):
        return W.crow_indices(), W.col_indices(), W.values()
    return W.ccol_indices(), W.row_indices(), W.values()


def _key(W: torch.Tensor) -> tuple[Any, ...]:
    """Identity, layout and version. The version comes last: ``_drop_other_versions``."""
    if W.layout is torch.strided:
        where: tuple[Any, ...] = (W.untyped_storage()._cdata, W.storage_offset(), W.stride())
        version: tuple[int, ...] = (W._version,)
    else:
        parts = _parts(W)
        where = tuple(p.untyped_storage()._cdata for p in parts)
        version = (W._version, *(p._version for p in parts))
    return (W.layout, W.shape, W.dtype, where, version)


def _drop_other_versions(key: tuple[Any, ...]) -> None:
    gone = [k for k, (refs, _) in _by_tensor.items() if k[:-1] == key[:-1] or _gone(refs)]
    for k in gone:
        del _by_tensor[k]


def _warn_inference() -> None:
    warnings.warn(
        "W was made under torch.inference_mode, so changes to it cannot be seen and it is analysed "
        "on every call; pass SparseMatrix.from_dense(W) instead",
        stacklevel=4,
    )


def forget() -> None:
    """Drop every remembered weight, and with it its plans."""
    with _analysing:
        _by_tensor.clear()
        _rebuilt.clear()


def by_id(
    weight_id: str,
    row_offsets: torch.Tensor,
    column_indices: torch.Tensor,
    values: torch.Tensor,
    shape: tuple[int, int],
) -> SparseMatrix:
    """The matrix a traced call means; rebuilt from its parts in a process that never saw it."""
    key = (weight_id, values.device)
    matrix = LIVE.get(key)
    if matrix is None:
        matrix = SparseMatrix(row_offsets, column_indices, values, shape)
        _rebuilt[key] = matrix
        if len(_rebuilt) > MAX_REMEMBERED:
            _rebuilt.popitem(last=False)
    return matrix
