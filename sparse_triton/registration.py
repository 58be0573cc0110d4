"""How an operator is registered with PyTorch: both devices, autocast, fake kernel, gradient.

Its tensors begin with the weight: three parts of a sparse matrix, with the weight's id as the last
argument, or one dense tensor. Then come X, bias, residual, then options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparse_triton.matrix import FLOAT_DTYPES

Arguments = tuple[Any, ...]


def register(
    library: torch.library.Library,
    name: str,
    run: Callable[..., torch.Tensor],
    fake: Callable[..., torch.Tensor],
    setup: Callable[..., None],
    backward: Callable[..., Arguments],
) -> None:
    """Give ``sparse_triton::name``, which ``library`` has defined, its meaning."""
    for key in ("CPU", "CUDA"):
        library.impl(name, run, key)
        library.impl(name, _autocast(name, key.lower()), f"Autocast{key}")
    torch.library.register_fake(f"sparse_triton::{name}", fake, lib=library)
    torch.library.register_autograd(
        f"sparse_triton::{name}", backward, setup_context=setup, lib=library
    )


def split_parts(inputs: Arguments) -> tuple[Arguments, Arguments]:
    """The weight's tensors and the rest: three for the parts, one for a dense tensor."""
    n = 1 if inputs[0].is_floating_point() else 3
    return inputs[:n], inputs[n:]


def _autocast(name: str, device: str) -> Callable[..., torch.Tensor]:
    """X, bias and residual in the dtype of the autocast region; nothing below is cast again."""

    def call(*inputs: Any) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(device)
        parts, (X, bias, residual, *options) = split_parts(inputs)
        operands = (
            t.to(dtype) if t is not None and t.dtype in FLOAT_DTYPES else t
            for t in (X, bias, residual)
        )
        with torch.autocast(device, enabled=False):
            op = getattr(torch.ops.sparse_triton, name).default
            result: torch.Tensor = op(*parts, *operands, *options)
        return result

    return call
