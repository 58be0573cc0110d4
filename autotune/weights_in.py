"""Finds the sparse weights in whatever a user calls a model, and what they are multiplied with.

``model.safetensors``                 every tensor of rank 2 or 4; files of ``save`` and
                                      sparse-bitmask files too
``model.pt``, ``.pth``, ``.bin``      the same, of a state dict; nothing but tensors is unpickled
a folder                              every ``.smtx`` and ``.npz`` below it
``package.module:function``           ``function()`` returns a model, or (model, example inputs)

A convolution of a module with example inputs is tuned as what it is: its images, stride, padding,
dilation and groups are seen in one forward pass. A rank-4 weight [C_out, C_in, R, S] without them
counts as the matrix [C_out, C_in*R*S]: with a 1x1 kernel that is the convolution itself; with a
larger one it is the product behind it, at the N of its output pixels.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from autotune.modules_in import weights_of_module
from autotune.weight import Weight, weight_of
from sparse_triton.convert.bitmask import load_bitmask
from sparse_triton.errors import FileFormatError, InputError
from sparse_triton.io import is_saved, read_state
from sparse_triton.matrix import SparseMatrix

STATE_DICTS = (".pt", ".pth", ".bin")
MIN_SPARSITY = 0.5


def find_weights(model: Any, min_sparsity: float = MIN_SPARSITY) -> list[Weight]:
    """The weights of a model that are sparse enough, by name.

    model  one of the forms above as a string or path; a ``torch.nn.Module`` or (module, example
           inputs); a mapping from names to tensors or ``SparseMatrix``

    Raises ``InputError`` for another argument, ``FileFormatError`` for a broken file.
    """
    found = list(_weights(model))
    return sorted(
        (w for w in found if w.sparsity >= min_sparsity and w.matrix.nnz),
        key=lambda w: w.name,
    )


def _weights(model: Any) -> Iterator[Weight]:
    if isinstance(model, torch.nn.Module):
        return weights_of_module(model, None)
    if isinstance(model, tuple) and model and isinstance(model[0], torch.nn.Module):
        return weights_of_module(model[0], model[1] if len(model) == 2 else tuple(model[1:]))
    if isinstance(model, Mapping):
        return _of_tensors(model)
    path = Path(model)
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in (".smtx", ".npz"):
        return iter([Weight(path.stem, _matrix_of(path))])
    return _weights(read_model(model))


def read_model(model: str | PathLike[str]) -> Any:
    """The tensors of a ``.safetensors`` file or a state dict, or what a function returns.

    Raises ``InputError`` for another form, ``FileFormatError`` for a broken file.
    """
    path = Path(model)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in STATE_DICTS:
        return _state_dict(path)
    if ":" in str(model):
        return _made_by(str(model))
    raise InputError(
        f"{model} is neither a folder nor a .safetensors, .pt, .smtx or .npz file nor of the form "
        "package.module:function"
    )


# -- files -----------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Iterator[Weight]:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".smtx", ".npz")]
    if not files:
        raise InputError(f"{folder} holds no .smtx and no .npz file")
    for path in files:
        yield Weight(str(path.relative_to(folder).with_suffix("")), _matrix_of(path))


def _matrix_of(path: Path) -> SparseMatrix:
    if path.suffix == ".npz":
        return SparseMatrix.from_npz(path)
    return SparseMatrix.from_smtx(path)


def _safetensors(path: Path) -> Mapping[str, torch.Tensor | SparseMatrix]:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return read_state(path) if is_saved(path) else load_bitmask(path)


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # pickle, zip and torch raise without a common base
        raise FileFormatError(f"{path} is not a state dict of tensors: {e}") from e
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise FileFormatError(f"{path} holds a {type(loaded).__name__}, a state dict is needed")
    return loaded


def _made_by(spec: str) -> Any:
    """What ``package.module:function`` returns; the current folder may be imported from."""
    module, _, name = spec.rpartition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise InputError(f"{spec} does not name a function that can be imported: {e}") from e
    return function()


# -- tensors ---------------------------------------------------------------------------------------


def _of_tensors(tensors: Mapping[str, Any]) -> Iterator[Weight]:
    """Pruning masks of ``torch.nn.utils.prune`` are applied; biases are known by their names."""
    for name, t in tensors.items():
        if isinstance(t, SparseMatrix):
            yield Weight(name, t)
        if not isinstance(t, torch.Tensor) or name.endswith("_mask"):
            continue
        mask = tensors.get(name.removesuffix("_orig") + "_mask")
        stem = name.removesuffix("_orig")
        bias = stem.removesuffix("weight") + "bias" in tensors and stem.endswith("weight")
        weight = weight_of(stem, t if mask is None else t * mask.to(t.dtype), bias)
        if weight is not None:
            yield weight


def read_n_map(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Columns by weight: lines ``name N [N ...]``, separated by spaces or commas; # comments.

    A name is a weight's full name or the last part of its path.
    """
    out: dict[str, tuple[int, ...]] = {}
    try:
        lines = Path(path).read_text().splitlines()
        for line in lines:
            name, *numbers = line.partition("#")[0].replace(",", " ").split() or [""]
            if name:
                out[name] = tuple(int(n) for n in numbers)
                if not numbers or min(out[name]) < 1:
                    raise ValueError(f"line {line!r}")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except ValueError as e:
        raise FileFormatError(f"{path} must hold lines 'name N [N ...]': {e}") from None
    return out


def with_columns(
    weights: list[Weight], N: tuple[int, ...], n_map: Mapping[str, tuple[int, ...]]
) -> list[Weight]:
    """Weights with the columns they are tuned for: the map, else the model's own, else ``N``."""
    out = []
    for w in weights:
        mapped = n_map.get(w.name) or n_map.get(Path(w.name).name) or ()
        out.append(replace(w, N=tuple(mapped) or w.N or (() if w.seen else N)))
    return out
