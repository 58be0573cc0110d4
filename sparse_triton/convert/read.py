"""Finds the layers of a model and reads their weights, however pruning left them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.utils import parametrize, prune

from sparse_triton.matrix import FLOAT_DTYPES

Tensor = torch.Tensor
Module = torch.nn.Module

# What has a weight and no sparse counterpart here; reported only where it is sparse.
OTHERS = (
    torch.nn.Conv1d, torch.nn.Conv3d, torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d, torch.nn.Bilinear, torch.nn.Embedding, torch.nn.EmbeddingBag,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with a weight.

    kind       "linear", "conv1d" (the transposed Linear of transformers), "conv2d", or "" where
               there is no sparse layer for it
    parent     the module that holds it, and under which name; None for the model itself
    masked_by  where the zeros come from, if not from the stored weight itself; ""
    """

    name: str
    module: Module
    kind: str
    parent: Module | None
    key: str
    masked_by: str

    def weight(self) -> Tensor:
        """The effective weight, detached: dense, in the layer's own shape."""
        with torch.no_grad():
            if _pruned(self.module):
                w = self.module.weight_orig * self.module.weight_mask  # type: ignore[operator]
            else:
                w = self.module.weight
            assert isinstance(w, Tensor)
            w = w.detach()
            return w if w.layout is torch.strided else w.to_dense()

    @property
    def reparametrized(self) -> bool:
        """Whether the weight is made of other tensors, which the layer has to keep."""
        return _pruned(self.module) or parametrize.is_parametrized(self.module)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What the weight is made of."""
        return [p for n, p in self.module.named_parameters() if n.rpartition(".")[2] != "bias"]

    def __str__(self) -> str:
        return type_of(self.module).__name__


def layers_of(model: Module) -> Iterator[Layer]:
    """Every Linear, Conv1D and Conv2d, and whatever else has a weight, each once."""
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind or isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, *OTHERS)):
            path, _, key = name.rpartition(".")
            parent = model.get_submodule(path) if name else None
            yield Layer(name, module, kind, parent, key, _masked_by(module))


def kind_of(module: Module) -> str:
    """Exact types only: a subclass may do anything in its forward."""
    cls = type_of(module)
    if cls is torch.nn.Linear:
        return "linear"
    if cls is torch.nn.Conv2d:
        return "conv2d"
    if cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers."):
        return "conv1d"
    return ""


def type_of(module: Module) -> type:
    """The class, seen through ``torch.nn.utils.parametrize``."""
    if parametrize.is_parametrized(module):
        return parametrize.type_before_parametrizations(module)
    return type(module)


def _pruned(module: Module) -> bool:
    return "weight_orig" in module._parameters and "weight_mask" in module._buffers


def _masked_by(module: Module) -> str:
    if _pruned(module):
        return "torch.nn.utils.prune"
    if parametrize.is_parametrized(module, "weight"):
        names = {type(p).__name__ for p in module.parametrizations["weight"]}  # type: ignore[index]
        return f"parametrization {', '.join(sorted(names))}"
    layout = getattr(module.weight, "layout", torch.strided)
    return "" if layout is torch.strided else str(layout).removeprefix("torch.")


def unreadable(layer: Layer) -> str:
    """Why the weight cannot be read as it is; "" where it can."""
    parameters = layer.parameters
    if not parameters:
        return "its weight is no parameter"
    for p in parameters:
        if type(p) not in (torch.nn.Parameter, Tensor):
            return f"its weight is a {type(p).__name__}, not a plain parameter"
        if p.is_meta:
            return "its weight is on the meta device: it has no data yet"
        if p.dtype not in FLOAT_DTYPES:
            return f"its weight is {str(p.dtype).removeprefix('torch.')}: float32, float16 or " + (
                "bfloat16 is needed"
            )
        if p.numel() == 0:
            return "its weight is empty"
    return ""


def is_pruning_hook(hook: object) -> bool:
    """Whether it is what ``torch.nn.utils.prune`` makes the weight with before each forward."""
    return isinstance(hook, prune.BasePruningMethod)
