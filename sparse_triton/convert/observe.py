"""One forward pass, watched: which layers run, on what shapes."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Tensor = torch.Tensor
Module = torch.nn.Module


@dataclass
class Watched:
    """What one forward pass did: the calls of each module, and what they were called with, as meta
    tensors with shape and strides."""

    calls: Counter[Module] = field(default_factory=Counter)
    inputs: dict[Module, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


def watch(model: Module, example_inputs: Any) -> Watched:
    """Run the model once, in eval mode and without gradients; its modes are restored.

    example_inputs  a tensor, a tuple of positional or a mapping of keyword arguments
    """
    watched = Watched()

    def note(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watched.calls[module] += 1
        X = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(X, Tensor) and X.layout is torch.strided:
            form = torch.empty_strided(X.shape, X.stride(), dtype=X.dtype, device="meta")
            watched.inputs[module].append(form)

    handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            run(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return watched


def run(model: Callable[..., Any], example_inputs: Any) -> Any:
    """One call: a mapping is keyword arguments, a tuple or list positional ones."""
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    if isinstance(example_inputs, tuple | list):
        return model(*example_inputs)
    return model(example_inputs)


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Every module in eval mode; each gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
