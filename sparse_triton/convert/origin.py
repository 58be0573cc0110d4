"""What a converted model remembers of the dense one: enough for the exact way back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from sparse_triton.convert.read import is_pruning_hook, type_of
from sparse_triton.filter import SparseFilter
from sparse_triton.nn import SparseModule

Tensor = torch.Tensor
Module = torch.nn.Module


class Absorbed(torch.nn.Identity):
    """Stands where a module was whose work a sparse layer's kernel does now."""

    def __init__(self, original: Module) -> None:
        super().__init__()
        self.original = (original,)  # a tuple hides it from parameters, state and moves

    def extra_repr(self) -> str:
        return type(self.original[0]).__name__


@dataclass
class Origin:
    """The layer behind a sparse module.

    shell      the layer without its weight; whole where a mask has to come back too
    weight_id  of the sparse module as converted
    dtype      of the weight
    turned     whether the layer's weight is the transpose of W
    trains     the weight's requires_grad
    layout     of the weight, with the blocks of a blocked one
    negative   which elements of the weight are -0.0, as packed bits; None if none is
    unfolded   the layer's weight, on the host, where folding changed it
    bias       the layer's bias, where folding replaced it
    norm       what was folded
    """

    shell: Module
    whole: bool
    weight_id: str
    dtype: torch.dtype
    turned: bool = False
    trains: bool = False
    layout: tuple[torch.layout, tuple[int, int] | None] = (torch.strided, None)
    negative: NDArray[np.uint8] | None = None
    unfolded: SparseFilter | None = None
    bias: torch.nn.Parameter | None = None
    norm: list[Absorbed] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        twin: Origin = object.__new__(Origin)
        memo[id(self)] = twin
        twin.__dict__.update({n: copy.deepcopy(v, memo) for n, v in self.__dict__.items()})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """For pickling, which PyTorch refuses for parametrizations: they are left behind."""
        state = dict(self.__dict__)
        if parametrize.is_parametrized(self.shell):
            state |= {"shell": bare(self.shell), "whole": False}
        return state

    def changed(self, sparse: SparseModule) -> bool:
        """Whether other values were loaded since: then the layer's own are those, as folded."""
        cast = sparse.values.dtype != self.dtype
        return sparse.replaced and (cast or sparse.weight_id != self.weight_id)

    def layer(self, sparse: SparseModule) -> Module:
        """The layer again, on the sparse module's device and in its dtype."""
        like, loaded = sparse.values, self.changed(sparse)
        if self.whole and not loaded:
            return cast(self.shell, like, self.dtype)
        folded = self.unfolded is not None and not loaded
        w = self.unfolded.to(like.device).to_dense() if folded and self.unfolded else sparse.weight
        w = w.to(like.dtype)
        if self.turned:
            w = w.mT.contiguous()
        if self.negative is not None:
            w = torch.where(self._bits(w) & (w == 0), w.new_tensor(-0.0), w)
        layout, blocks = self.layout
        if layout is not torch.strided:
            w = w.to_sparse(layout=layout, blocksize=blocks)
        shell = bare(self.shell)
        shell.register_parameter("weight", torch.nn.Parameter(w, self.trains))
        shell.register_parameter("bias", self.bias if folded else sparse.bias)  # type: ignore[arg-type]
        return cast(shell, like, self.dtype)

    def _bits(self, w: Tensor) -> Tensor:
        bits = np.unpackbits(self.negative, count=w.numel()).astype(bool)  # type: ignore[arg-type]
        return torch.from_numpy(bits).view(w.shape).to(w.device)


def bare(module: Module) -> Module:
    """A copy without weight, bias and what masks them; everything else is the module's own."""
    shell: Module = object.__new__(type_of(module))
    shell.__dict__.update({n: v for n, v in module.__dict__.items() if n not in ("weight", "bias")})
    for table in ("_parameters", "_buffers", "_modules"):
        own = module.__dict__[table]
        kept = {n: v for n, v in own.items() if not n.startswith(("weight", "bias", "parametriz"))}
        shell.__dict__[table] = kept
    hooks = module._forward_pre_hooks.items()
    shell._forward_pre_hooks = OrderedDict((k, h) for k, h in hooks if not is_pruning_hook(h))
    return shell


def layout_of(w: Tensor) -> tuple[torch.layout, tuple[int, int] | None]:
    """The weight's layout, and the extents of its blocks if it has any."""
    if w.layout in (torch.sparse_bsr, torch.sparse_bsc):
        return w.layout, (w.values().shape[1], w.values().shape[2])
    return w.layout, None


def negative_zeros(w: Tensor) -> NDArray[np.uint8] | None:
    """Packed bits of where w is -0.0; None if nowhere. A mask makes them of negative weights."""
    bits = (w == 0) & torch.signbit(w)
    return np.packbits(bits.cpu().numpy()) if bool(bits.any()) else None


def cast(module: Module, like: Tensor, dtype: torch.dtype) -> Module:
    """The module where ``like`` is; in its dtype too, if the model was cast since."""
    return module.to(like.device) if like.dtype == dtype else module.to(like.device, like.dtype)
