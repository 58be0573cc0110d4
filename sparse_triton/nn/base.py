"""``SparseModule``: what every sparse layer is: a pruned weight as buffers, a bias, an epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch

from sparse_triton.call import Call
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import refuse_capture
from sparse_triton.eager import is_plain
from sparse_triton.errors import ActivationError, DtypeError, InputError, ShapeError
from sparse_triton.executor import execute
from sparse_triton.matrix import FLOAT_DTYPES, LIVE, SparseMatrix
from sparse_triton.numerics import ACTIVATIONS
from sparse_triton.problem import ConvProblem, SpmmProblem

Tensor = torch.Tensor
PARTS = ("row_offsets", "column_indices", "values")
MODULES: dict[str, type[SparseModule]] = {}


class SparseModule(torch.nn.Module):
    """A layer whose weight is a ``SparseMatrix`` [M, K], held as three buffers and never trained.

    State    ``row_offsets`` [M + 1] and ``column_indices`` [nnz] int32, ``values`` [nnz]; ``bias``
             [M], a parameter, where there is one.
    Moves    ``to``, ``half``, ``load_state_dict``, ``deepcopy`` and pickling work as for any
             module; loading accepts another pattern of the same shape.
    Buffers  are shared with the matrix that the module was made of: load a state dict rather than
             write into them. (A write is seen by the next eager call, not by a compiled one.)
    """

    weight_id: str
    row_offsets: Tensor
    column_indices: Tensor
    values: Tensor
    bias: Tensor | None
    _dropped: ClassVar[tuple[str, ...]] = ("_known", "_source", "_replicas")  # derived: not copied

    def __init_subclass__(cls) -> None:
        MODULES[cls.__name__] = cls

    def __init__(
        self, matrix: SparseMatrix, bias: Tensor | None = None, activation: str | None = None
    ) -> None:
        super().__init__()
        M = matrix.shape[0]
        if bias is not None and tuple(bias.shape) != (M,):
            raise ShapeError(f"bias must have shape ({M},), got {tuple(bias.shape)}")
        if activation is not None and activation not in ACTIVATIONS:
            raise ActivationError(
                f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        self.matrix_shape = matrix.shape
        self.activation = activation
        for name in PARTS:
            self.register_buffer(name, getattr(matrix, name))
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.fused: tuple[str, ...] = ()  # what was fused, in the words of a report
        self.replaced = False  # whether other values were loaded, or written in place
        self.origin: Any = None  # what ``convert`` remembers of the dense layer
        self._source: SparseMatrix | None = None
        self._keep(matrix)

    # -- the weight ------------------------------------------------------------------------------

    @property
    def matrix(self) -> SparseMatrix:
        """The weight; analysed again where the buffers have changed."""
        values, known = self._buffers["values"], self._known
        if known is None or known[0] is not values:
            return self._analyse()
        unchanged = known[1] is None or known[1] == values._version
        return known[2] if unchanged else self._analyse()

    def _analyse(self) -> SparseMatrix:
        values = self.values
        if values.dtype not in FLOAT_DTYPES:
            raise DtypeError(
                f"sparse weights are float32, float16 or bfloat16, got {values.dtype}; use .float()"
            )
        refuse_capture(values.device, "this module's weight was never analysed on this device")
        if self._source is not None:  # a replica of DataParallel, made anew for each call
            moved = self._replicas.get(values.device) or self._source.to(values.device)
            self._keep(self._replicas.setdefault(values.device, moved))
        else:
            if self._known is not None and self._known[0] is values:  # written to in place
                LIVE.pop((self.weight_id, values.device), None)
                self.replaced = True
            offsets, columns = self.row_offsets, self.column_indices
            self._keep(SparseMatrix(offsets, columns, values, self.matrix_shape))
        assert self._known is not None
        return self._known[2]

    def _keep(self, matrix: SparseMatrix) -> None:
        values = self.values
        version = None if values.is_inference() else values._version
        self._known: tuple[Tensor, int | None, SparseMatrix] | None = (values, version, matrix)
        self.weight_id = matrix.weight_id
        if self._source is None:
            self._replicas: dict[torch.device, SparseMatrix] = {}

    def _changed(self) -> None:
        """Analyse now, so that no later call has to: it may be compiled or captured."""
        self._known, self._source, self._replicas = None, None, {}
        if self.values.dtype in FLOAT_DTYPES and not self.values.is_meta:
            self._analyse()

    @property
    def weight(self) -> Tensor:
        """The dense weight as the original layer has it, made anew on each access."""
        return self.matrix.to_dense()

    @property
    def sparsity(self) -> float:
        return self.matrix.sparsity

    # -- calling ---------------------------------------------------------------------------------

    def call(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Call | ConvCall:
        """What one eager call computes."""
        raise NotImplementedError

    def _traced(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        """The same through PyTorch's dispatcher, with the buffers as arguments."""
        raise NotImplementedError

    def _run(self, X: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        if is_plain(X, self.bias, residual) and not X.is_meta:
            return execute(self.matrix, self.call(X, residual, activation))
        if not torch.compiler.is_compiling() and not self.values.is_meta:
            self.matrix  # noqa: B018  analysed again where the buffers have changed
        return self._traced(X, residual, activation)

    def _run_with(self, X: Tensor, residual: Tensor, y_shape: tuple[int, ...]) -> Tensor:
        """A residual that is spread over Y or promotes its dtype is added by PyTorch."""
        if tuple(residual.shape) == y_shape and residual.dtype == X.dtype:
            return self._run(X, residual, self.activation)
        Y = self._run(X, None, None) + residual
        if self.activation is None:
            return Y
        activated: Tensor = getattr(torch.nn.functional, self.activation)(Y)
        return activated

    def problem(self, X: Tensor, residual: bool = False) -> SpmmProblem | ConvProblem:
        """The problem of a call with an X of this form; X may be a meta tensor."""
        W = self.matrix
        call = self.call(X, X if residual else None, self.activation)
        return call.problem(W.shape, W.nnz, str(W.dtype).removeprefix("torch."))

    # -- to and from JSON ------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """What ``from_spec`` needs besides weight and bias, as plain JSON values."""
        return {"activation": self.activation}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], matrix: SparseMatrix, bias: Tensor | None) -> Self:
        """The module with this ``spec()``."""
        return cls(matrix, bias, **spec)

    def extra_repr(self) -> str:
        epilogue = f", {self.activation}" if self.activation else ""
        M, K = self.matrix_shape
        return f"{K} -> {M}, {len(self.values)} of {M * K} weights{epilogue}"

    # -- what modules do -------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):  # tensors made in inference mode cannot be watched
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._known is None or self._known[0] is not self.values:
            self._changed()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any],
        strict: bool, missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """The buffers are replaced, not written to: a ``SparseMatrix`` may share them."""
        missing = [prefix + name for name in PARTS if prefix + name not in state_dict]
        missing_keys += missing
        if not missing:
            try:
                self._replace(*(state_dict[prefix + name] for name in PARTS))
            except InputError as e:
                error_msgs.append(f"the sparse weight {prefix.rstrip('.') or 'of the model'}: {e}")
        rest = {k: v for k, v in state_dict.items() if k[len(prefix) :] not in PARTS}
        with _without(self, PARTS):
            super()._load_from_state_dict(
                rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        self._changed()

    def _replace(self, row_offsets: Tensor, column_indices: Tensor, values: Tensor) -> None:
        like = self.values
        with torch.inference_mode(False):
            new = SparseMatrix.from_csr(row_offsets, column_indices, values, self.matrix_shape)
            self.row_offsets = new.row_offsets.to(like.device, copy=True)
            self.column_indices = new.column_indices.to(like.device, copy=True)
            self.values = new.values.to(like.device, like.dtype, copy=True)
        self.replaced = True

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in self._dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._changed()

    def _replicate_for_data_parallel(self) -> Self:
        replica: Self = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._source, replica._known = self._source or self.matrix, None
        return replica


class _without:
    """Hides buffers from ``super()._load_from_state_dict``, which would copy into them."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        self.module, self.names = module, names

    def __enter__(self) -> None:
        self.hidden = self.module._buffers
        self.module._buffers = {k: v for k, v in self.hidden.items() if k not in self.names}

    def __exit__(self, *_: object) -> None:
        self.module._buffers = self.hidden
