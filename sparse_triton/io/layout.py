"""What a file holds, as a model's state has it: packed weights, plain tensors, names for both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from sparse_triton.errors import FileFormatError, InputError
from sparse_triton.io import codec
from sparse_triton.io.codec import ENCODINGS, Packing
from sparse_triton.io.container import Tensors
from sparse_triton.matrix import FLOAT_DTYPES, SparseMatrix

State = dict[str, torch.Tensor | SparseMatrix]
Form = Literal["tensor", "matrix"]


@dataclass(frozen=True)
class Weight:
    """A packed weight. ``form``: a dense tensor of ``shape``, or a ``SparseMatrix``."""

    form: Form
    shape: tuple[int, ...]
    dtype: str
    packing: Packing

    def to_dict(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "encoding": self.packing.encoding,
            "nnz": self.packing.nnz,
        }

    @staticmethod
    def from_dict(name: str, d: Any) -> Weight:
        """Raises ``FileFormatError`` unless d is what ``to_dict`` makes."""
        if not isinstance(d, dict):
            raise FileFormatError(f"{name}: a packed weight is an object, got {d!r:.60}")
        form, encoding, dtype, shape = (d.get(k) for k in ("form", "encoding", "dtype", "shape"))
        nnz: Any = d.get("nnz")
        dims = shape if isinstance(shape, list) else []
        numbers = all(type(n) is int and 0 <= n < 2**31 for n in (*dims, nnz))
        rank = len(dims) == 2 if form == "matrix" else len(dims) >= 2
        if not (form in ("tensor", "matrix") and encoding in ENCODINGS and numbers and rank):
            raise FileFormatError(f"{name}: not a packed weight of this version: {d!r:.200}")
        if dtype not in [_name(t) for t in FLOAT_DTYPES]:
            raise FileFormatError(f"{name}: a packed weight has no dtype {dtype!r:.60}")
        packing = Packing(encoding, dims[0], math.prod(dims[1:]), nnz)
        return Weight(form, tuple(dims), dtype, packing)


@dataclass
class Packed:
    """The tensors of a file and what they mean. ``aliases``: names of tied tensors."""

    tensors: Tensors = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    pattern_hashes: set[str] = field(default_factory=set)
    dense_bytes: int = 0

    # -- in ------------------------------------------------------------------------------------

    @staticmethod
    def of(state: Mapping[str, Any]) -> Packed:
        """Pack every weight that gets smaller by it; tied tensors are stored once."""
        packed, known = Packed(), dict[Any, str]()
        for name, value in state.items():
            key = _identity(name, value)
            if known.setdefault(key, name) == name:
                packed._add(name, value)
            else:
                packed.aliases[name] = known[key]
        return packed

    def _add(self, name: str, value: torch.Tensor | SparseMatrix) -> None:
        if isinstance(value, SparseMatrix):
            itemsize = value.values.element_size()
            self.dense_bytes += math.prod(value.shape) * itemsize
            self._add_matrix(name, "matrix", value.shape, value)
            return
        self.dense_bytes += value.numel() * value.element_size()
        if not self._add_pruned(name, value):
            self._put(name, value.detach().cpu().clone(memory_format=torch.contiguous_format))

    def _add_pruned(self, name: str, t: torch.Tensor) -> bool:
        """Whether the tensor was worth packing. Zeros lose their sign."""
        if t.dtype not in FLOAT_DTYPES or t.ndim < 2 or t.numel() == 0:
            return False
        nnz = int(t.count_nonzero())
        packing = codec.smallest(t.shape[0], math.prod(t.shape[1:]), nnz)
        if packing.pattern_bytes + nnz * t.element_size() >= t.numel() * t.element_size():
            return False
        matrix = SparseMatrix.from_dense(t.detach().flatten(1))
        self._add_matrix(name, "tensor", tuple(t.shape), matrix)
        return True

    def _add_matrix(
        self, name: str, form: Form, shape: tuple[int, ...], matrix: SparseMatrix
    ) -> None:
        packing, parts = codec.encode(matrix)
        self.weights[name] = Weight(form, shape, _name(matrix.dtype), packing)
        self.pattern_hashes.add(matrix.pattern_hash)
        for part, tensor in parts.items():
            self._put(f"{name}.{part}", tensor)

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        if name in self.tensors:
            raise InputError(f"two tensors of the model would be stored as {name!r}; rename one")
        self.tensors[name] = tensor

    def to_dict(self) -> dict[str, Any]:
        weights = {name: w.to_dict() for name, w in self.weights.items()}
        return {"weights": weights, "aliases": self.aliases}

    # -- out -----------------------------------------------------------------------------------

    @staticmethod
    def from_dict(document: Mapping[str, Any], tensors: Tensors) -> Packed:
        weights, aliases = document.get("weights"), document.get("aliases")
        if not isinstance(weights, dict) or not isinstance(aliases, dict):
            raise FileFormatError("the document must hold the objects 'weights' and 'aliases'")
        read = {name: Weight.from_dict(name, d) for name, d in weights.items()}
        packed = Packed(tensors, read, aliases)
        names = set(packed._plain()) | set(read)
        if not all(isinstance(o, str) and o in names for o in aliases.values()):
            raise FileFormatError("an alias names a tensor that is not there")
        return packed

    def _plain(self) -> Iterator[str]:
        parts = {f"{n}.{p}" for n, w in self.weights.items() for p in codec.part_names(w.packing)}
        return (name for name in self.tensors if name not in parts)

    def state(self) -> State:
        """Every tensor under its own name; packed ones decoded and checked."""
        out: State = {name: self.tensors[name] for name in self._plain()}
        for name, weight in self.weights.items():
            out[name] = self._decoded(name, weight)
        return out | {name: out[original] for name, original in self.aliases.items()}

    def _decoded(self, name: str, weight: Weight) -> torch.Tensor | SparseMatrix:
        parts = {
            p: self.tensors[f"{name}.{p}"]
            for p in codec.part_names(weight.packing)
            if f"{name}.{p}" in self.tensors
        }
        try:
            matrix = codec.decode(weight.packing, parts)
        except FileFormatError as e:
            raise FileFormatError(f"{name}: {e}") from e
        if _name(matrix.dtype) != weight.dtype:
            raise FileFormatError(f"{name} must be {weight.dtype}, its values are {matrix.dtype}")
        return matrix if weight.form == "matrix" else matrix.to_dense().view(weight.shape)


def _identity(name: str, value: Any) -> tuple[Any, ...]:
    """Equal for tied tensors. Raises ``InputError`` for what cannot be stored."""
    if isinstance(value, SparseMatrix):
        return value.weight_id, value.values.data_ptr()
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; only tensors can be saved")
    if value.layout is not torch.strided or value.is_meta:
        raise InputError(
            f"{name} has layout {value.layout} on {value.device}; save takes strided tensors with "
            "values: use .to_dense(), or SparseMatrix.from_torch"
        )
    if value.numel() == 0:
        return (name,)
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
