"""``save`` and ``load``: pruned models as small files, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import nn

from sparse_triton.errors import FileFormatError
from sparse_triton.io import container, skeleton, tuned
from sparse_triton.io.layout import Packed, State
from sparse_triton.matrix import SparseMatrix
from sparse_triton.store import Store, as_store

__all__ = ["Saved", "is_saved", "load", "read_state", "save"]
Module = TypeVar("Module", bound=nn.Module)
PathOrName = str | PathLike[str]
Where = Store | PathOrName | None


@dataclass(frozen=True)
class Saved:
    """What ``save`` wrote. ``dense_bytes``: the same tensors with their zeros."""

    path: Path
    bytes: int
    dense_bytes: int
    packed: int
    tuned: int

    def __str__(self) -> str:
        share = self.bytes / self.dense_bytes if self.dense_bytes else 1.0
        return (
            f"{self.path}: {self.bytes} bytes, {share:.1%} of dense; {self.packed} weights packed, "
            f"{self.tuned} tuned configurations"
        )


def save(
    model: nn.Module | Mapping[str, torch.Tensor | SparseMatrix],
    path: PathOrName,
    *,
    store: Where = None,
) -> Saved:
    """Write a model's state to one file in which zeros cost next to nothing.

    model  a module, converted by ``sparsify_`` or not, or a mapping of names to tensors; masks of
           ``prune_`` and ``torch.nn.utils.prune`` are applied and not stored
    store  whose tuned configurations for these weights travel along (default: the user's)

    The format is safetensors with a JSON document in its header. Weights of rank 2 and more are
    stored as their non-zero values and a bitmap or 16- or 32-bit indices, whichever is smaller, and
    plainly where that is smaller still; values are kept bit for bit (a zero loses its sign). A
    checksum guards every tensor. A crash leaves the old file or the new one, never half of one.

    Raises ``InputError`` for what is not a tensor, or a path that cannot be written.

    >>> import tempfile
    >>> model = nn.Linear(64, 64).requires_grad_(False)
    >>> _ = model.weight.mul_(torch.rand(64, 64) < 0.1)
    >>> path = f"{tempfile.mkdtemp()}/model.safetensors"
    >>> save(model, path).packed
    1
    >>> torch.equal(load(path, nn.Linear(64, 64)).weight, model.weight)
    True
    """
    packed = Packed.of(skeleton.state_of(model))
    entries = tuned.collect(as_store(store), packed.pattern_hashes)
    from sparse_triton import __version__

    document = {
        "version": __version__,
        **packed.to_dict(),
        "modules": skeleton.describe(model),
        "tuned": entries,
    }
    where = Path(path)
    container.write(where, document, packed.tensors)
    size = where.stat().st_size
    return Saved(where, size, packed.dense_bytes, len(packed.weights), len(entries))


@overload
def load(
    path: PathOrName, model: None = ..., *, strict: bool = ..., store: Where = ...
) -> State: ...
@overload
def load(path: PathOrName, model: Module, *, strict: bool = ..., store: Where = ...) -> Module: ...
def load(
    path: PathOrName,
    model: nn.Module | None = None,
    *,
    strict: bool = True,
    store: Where = None,
) -> Any:
    """Read what ``save`` wrote.

    model   the model to fill and return: of the same architecture, dense (its layers are swapped as
            they were when it was saved) or converted the same way. None: the state is returned, a
            dictionary of tensors and, for converted layers, ``SparseMatrix``
    strict  every tensor of the model is in the file, and none besides. Shapes and dtypes must agree
            in any case
    store   where the configurations that travelled along are put, unless it has its own for the
            same problem (default: the user's)

    Reading runs no code of the file and trusts nothing in it. The model is not touched unless all
    of the file fits.

    Raises ``FileFormatError`` for a file that is truncated, damaged, changed or of another kind;
    ``InputError`` where there is none, or for a model that it does not fit.
    """
    document, state = _read(Path(path))
    result = (
        state if model is None else skeleton.restore_(model, document.get("modules"), state, strict)
    )
    tuned.merge_into(as_store(store), document.get("tuned"))
    return result


def is_saved(path: PathOrName) -> bool:
    """Whether the file says that ``save`` wrote it."""
    return container.is_ours(Path(path))


def read_state(path: PathOrName) -> State:
    """As ``load`` without a model; no store is touched."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, Any], State]:
    document, tensors = container.read(path)
    try:
        return document, Packed.from_dict(document, tensors).state()
    except FileFormatError as e:
        raise FileFormatError(f"{path}: {e}") from e
