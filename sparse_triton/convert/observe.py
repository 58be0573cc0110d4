"""One forward pass, watched: which layers run, on what shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Tensor = torch.Tensor
Module = torch.nn.Module
Seen = dict[Module, list[Tensor]]


def watch(model: Module, example_inputs: Any, modules: list[Module]) -> Seen:
    """The first argument of every call of the modules, as meta tensors with shape and strides.

    example_inputs  a tensor, a tuple of positional or a mapping of keyword arguments
    The model runs once, in eval mode and without gradients; its modes are restored.
    """
    seen: Seen = {module: [] for module in modules}

    def note(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        X = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(X, Tensor):
            form = torch.empty_strided(X.shape, X.stride(), dtype=X.dtype, device="meta")
            form.seen_on = X.device  # type: ignore[attr-defined]
            seen[module].append(form)

    handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in modules]
    try:
        with evaluating(model), torch.no_grad():
            run(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


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
