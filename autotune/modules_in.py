"""Finds the sparse weights of a module, and, given example inputs, what they are called with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from autotune.weight import Weight, weight_of
from sparse_triton.conv_call import ConvCall
from sparse_triton.executor import problem_of
from sparse_triton.filter import SparseFilter
from sparse_triton.geometry import geometry_of


def weights_of_module(model: torch.nn.Module, example: Any) -> Iterator[Weight]:
    """Linear and Conv2d layers, each parameter once; with their calls where inputs are given."""
    layers = {name: m for name, m in model.named_modules() if _is_layer(m)}
    calls = {} if example is None else _calls_seen(model, example, layers)
    done: set[int] = set()
    for name, layer in layers.items():
        parameter = getattr(layer, "weight_orig", layer.weight)
        if id(parameter) in done:  # tied
            continue
        done.add(id(parameter))
        mask = getattr(layer, "weight_mask", None)
        t = parameter.detach() if mask is None else parameter.detach() * mask
        weight = weight_of(f"{name}.weight" if name else "weight", t, layer.bias is not None)
        if weight is not None:
            yield _with_calls(weight, layer, t, calls.get(name, []))


def _with_calls(
    weight: Weight, layer: torch.nn.Module, t: torch.Tensor, inputs: list[torch.Tensor]
) -> Weight:
    """The weight with what it was called for."""
    if not isinstance(layer, torch.nn.Conv2d):
        return replace(weight, N=tuple(sorted({math.prod(x.shape[:-1]) for x in inputs})))
    W = SparseFilter.from_dense(t, layer.groups)
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    geometry = geometry_of(W.kernel, *options)
    bias = None if layer.bias is None else layer.bias.detach()
    seen = (
        problem_of(W.matrix, ConvCall(x, bias, None, None, geometry))
        for x in (x if x.ndim == 4 else x[None] for x in inputs)
    )
    return replace(weight, matrix=W.matrix, groups=layer.groups, seen=tuple(dict.fromkeys(seen)))


def _is_layer(m: torch.nn.Module) -> bool:
    if isinstance(m, torch.nn.Conv2d):
        return m.padding_mode == "zeros"
    return isinstance(m, torch.nn.Linear)


def _calls_seen(
    model: torch.nn.Module, example: Any, layers: Mapping[str, torch.nn.Module]
) -> dict[str, list[torch.Tensor]]:
    """The inputs of each layer's calls in one forward pass, without their values."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def note(name: str) -> Any:
        def hook(layer: torch.nn.Module, inputs: Any, named: Any, y: torch.Tensor) -> None:
            x = inputs[0] if inputs else named["input"]
            if y.numel():
                seen[name].append(x.detach().to("meta"))

        return hook

    handles = [
        layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers.items()
    ]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            if isinstance(example, Mapping):
                model(**example)
            else:
                model(*(example if isinstance(example, tuple | list) else (example,)))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen
