"""Reads ``sparse-bitmask`` files: pruned weights as values and one bit an element.

The format of the package compressed-tensors, which is not needed. A weight is four tensors below
its layer's name (in older files below the weight's own): ``compressed`` [nnz], ``bitmask`` uint8
[..., ceil(K / 8)] with the lowest bit first, ``shape``, and ``row_offsets`` [M], the first value of
each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sparse_triton.errors import FileFormatError, InputError

Tensor = torch.Tensor
PARTS = ("compressed", "bitmask", "shape", "row_offsets")


def load_bitmask(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The dense state dict of a ``.safetensors`` file, or of all those in a folder.

    Tensors that are not packed come as they are, so a file without packed ones is read too.
    Raises ``InputError`` where there is no such file, ``FileFormatError`` for a broken one.

    >>> model.load_state_dict(load_bitmask("model.safetensors"))  # doctest: +SKIP
    """
    where = Path(path)
    files = sorted(where.glob("*.safetensors")) if where.is_dir() else [where]
    if not files or not all(file.is_file() for file in files):
        raise InputError(f"{where} is neither a .safetensors file nor a folder with any")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as e:
            raise FileFormatError(f"{file} is not a readable .safetensors file: {e}") from e
    return unpack_bitmasks(tensors)


def unpack_bitmasks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with every packed weight as one dense tensor."""
    dense, prefixes = (
        dict(tensors),
        [name.removesuffix(".bitmask") for name in tensors if name.endswith(".bitmask")],
    )
    for prefix in prefixes:
        missing = [part for part in PARTS if f"{prefix}.{part}" not in dense]
        if missing:
            raise FileFormatError(f"{prefix} has a bitmask, but no {', '.join(missing)}")
        values, bits, shape, offsets = (dense.pop(f"{prefix}.{part}") for part in PARTS)
        name = prefix if prefix.endswith("weight") else f"{prefix}.weight"
        dense[name] = _unpacked(prefix, values, bits, shape, offsets)
    return dense


def _unpacked(prefix: str, values: Tensor, bits: Tensor, shape: Tensor, offsets: Tensor) -> Tensor:
    extents = [int(n) for n in shape.flatten()]
    K = extents[-1] if extents else 0
    if min(extents, default=-1) < 0 or tuple(bits.shape) != (*extents[:-1], -(-K // 8)):
        raise FileFormatError(
            f"{prefix}: a bitmask of {tuple(bits.shape)} does not fit a weight of {extents}"
        )
    mask = np.unpackbits(bits.to(torch.uint8).numpy(), axis=-1, count=K, bitorder="little")
    rows = mask.reshape(-1, K).sum(1, dtype=np.int64) if K else np.zeros(0, np.int64)
    if values.ndim != 1 or len(values) != rows.sum():
        raise FileFormatError(f"{prefix}: {rows.sum()} bits are set, for {values.numel()} values")
    if not np.array_equal(offsets.flatten().numpy(), np.cumsum(rows) - rows):
        raise FileFormatError(f"{prefix}: row_offsets are not those of the bitmask")
    w = torch.zeros(extents, dtype=values.dtype)
    w[torch.from_numpy(mask.astype(bool))] = values
    return w
