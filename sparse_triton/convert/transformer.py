"""``torch.nn.TransformerEncoderLayer``: its fast path reads weights past their modules.

The flags that allow it are lowered while a layer of it is sparse, and what follows its first layer,
an activation kept as a plain function, becomes part of that layer's kernel. What the first layer
hands to the second is feature-major, see ``formats``.
"""

from __future__ import annotations

from typing import Any

import torch

from sparse_triton.convert.recognise import activation_of
from sparse_triton.nn import SparseLinear, SparseModule

Module = torch.nn.Module
Tensor = torch.Tensor
_UNDO = "_before_sparsify"
ACTIVATION = "activation of the encoder layer"  # among a layer's ``fused``


def as_it_is(x: Tensor) -> Tensor:
    """In the place of an activation that is done already."""
    return x


def adapt(model: Module) -> None:
    """Switch the fast paths off where they would miss a sparse layer."""
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoderLayer) and _sparse_inside(module):
            _set(module, "activation_relu_or_gelu", 0)
            if type(module)._ff_block is torch.nn.TransformerEncoderLayer._ff_block:
                _fuse_activation(module)
                _choose_format(module)
        if isinstance(module, torch.nn.TransformerEncoder) and _sparse_inside(module):
            _set(module, "use_nested_tensor", False)


def undo(model: Module) -> None:
    """Every attribute as it was."""
    for module in model.modules():
        for name, value in module.__dict__.pop(_UNDO, {}).items():
            setattr(module, name, value)
            first = getattr(module, "linear1", None)
            if name == "activation" and isinstance(first, SparseLinear):
                first.activation, first.fused = None, ()
                first.feature_major = False


def _sparse_inside(module: Module) -> bool:
    return any(isinstance(m, SparseModule) for m in module.modules())


def _set(module: Module, name: str, value: Any) -> None:
    module.__dict__.setdefault(_UNDO, {}).setdefault(name, getattr(module, name))
    setattr(module, name, value)


def _fuse_activation(module: Any) -> None:
    first, activation = module.linear1, module.activation
    name = None if isinstance(activation, Module) else activation_of(activation)
    if name is None or not isinstance(first, SparseLinear):
        return
    if first.activation is None or ACTIVATION in first.fused:
        _set(module, "activation", as_it_is)
        first.activation, first.fused = name, (ACTIVATION,)


def _choose_format(module: Any) -> None:
    """Between the two layers are a dropout and an activation, done or not: they keep strides."""
    keeps = module.activation is as_it_is or activation_of(module.activation) is not None
    if keeps and isinstance(module.linear1, SparseLinear):
        module.linear1.feature_major = isinstance(module.linear2, SparseLinear)
