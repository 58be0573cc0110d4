"""Weights given as plain tensors: analysed once, remembered as long as they live unchanged.

A dense tensor is known by its storage (views and detached copies of one parameter are one weight)
and by its version counter, which every in-place change through autograd raises. A change through
``.data`` or another library is not seen: call ``forget()``.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from sparse_triton.device import refuse_capture
from sparse_triton.errors import InputError, ShapeError
from sparse_triton.filter import SparseFilter
from sparse_triton.matrix import LIVE, SparseMatrix

MAX_REMEMBERED = 4096

T = TypeVar("T", SparseMatrix, SparseFilter)
_Remembered = tuple[tuple[StorageWeakRef, ...], Any]
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
    return _remembered(W, ("matrix",), SparseMatrix.from_torch)


def as_filter(W: SparseFilter | torch.Tensor, groups: int) -> SparseFilter:
    """The filter behind a convolution's weight argument; analysis happens on first sight.

    Raises ``InputError`` for anything that is not a ``SparseFilter`` or a tensor, ``ShapeError``
    for a filter prepared for other groups.
    """
    if isinstance(W, SparseFilter):
        if W.groups != groups:
            raise ShapeError(f"W was prepared for groups = {W.groups}, the call has {groups}")
        return W
    if not isinstance(W, torch.Tensor):
        raise InputError(
            f"W must be a SparseFilter or a torch tensor, got {type(W).__name__}; see "
            "SparseFilter.from_dense, SparseFilter.from_matrix"
        )
    return _remembered(W, ("filter", groups), lambda w: SparseFilter.from_dense(w, groups))


def _remembered(W: torch.Tensor, form: tuple[Any, ...], analyse: Callable[[torch.Tensor], T]) -> T:
    """``analyse(W)``, once per state of the tensor."""
    if W.is_inference():
        _warn_inference()
        return analyse(W)
    key = (*form, *_key(W))
    known = _by_tensor.get(key)
    if known is None or _gone(known[0]):
        refuse_capture(W.device, "this W was never seen before")
        with _analysing:
            known = _by_tensor.get(key)
            if known is None or _gone(known[0]):
                known = _remember(W, key, analyse(W))
    found: T = known[1]
    return found


def _remember(W: torch.Tensor, key: tuple[Any, ...], weight: Any) -> _Remembered:
    _drop_other_versions(key)
    known = (tuple(StorageWeakRef(p.untyped_storage()) for p in _parts(W)), weight)
    _by_tensor[key] = known
    if len(_by_tensor) > MAX_REMEMBERED:
        _by_tensor.popitem(last=False)
    return known


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
        "on every call; pass SparseMatrix.from_dense(W) instead (convolutions: SparseFilter)",
        stacklevel=5,
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
