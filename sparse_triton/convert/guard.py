"""A guard against a silent loss: ``save_pretrained`` of transformers after a module swap.

It writes the sparse buffers under names that ``from_pretrained`` does not know, so the model loads
back with freshly drawn weights and one easily missed warning. A converted model refuses instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from sparse_triton.errors import InputError

METHOD = "save_pretrained"


def refuse_save_pretrained(model: nn.Module) -> None:
    """Every module with that method raises ``InputError`` from now on when it is called."""
    for module in model.modules():
        if callable(getattr(type(module), METHOD, None)):
            setattr(module, METHOD, _refuse)


def allow_save_pretrained(model: nn.Module) -> None:
    """The way back, for a model that is dense again."""
    for module in model.modules():
        if module.__dict__.get(METHOD) is _refuse:
            delattr(module, METHOD)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise InputError(
        "save_pretrained would write sparse weights that from_pretrained replaces by random ones; "
        "use sparse_triton.save(model, path) and sparse_triton.load(path, model), or "
        "sparse_triton.densify_(model) first"
    )
