"""The memory format of what goes from one sparse Linear layer to the next.

A kernel gathers from feature-major X at once, and turns a contiguous one before. So a layer whose
result only sparse Linear layers read, through elementwise work at most, writes it feature-major.
Shapes and values are the same; PyTorch's elementwise kernels keep strides.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from sparse_triton.convert.blocks import own_graphs, shared_modules
from sparse_triton.convert.recognise import activation_of, function_activation
from sparse_triton.nn import SparseLinear

Module = torch.nn.Module
_JOINS = (operator.add, operator.mul, torch.add, torch.mul, "add", "mul")


def choose_formats(model: Module) -> None:
    """Set ``feature_major`` of the converted Linear layers as far as forwards can be traced."""
    layers = {
        module
        for module in set(model.modules()) - shared_modules(model)
        if isinstance(module, SparseLinear) and module.origin is not None
    }
    if len(layers) < 2:
        return
    for module, graph, own in own_graphs(model, set(layers)):
        for node in feature_major(module, graph, own):
            layer: Any = module.get_submodule(str(node.target))
            layer.feature_major = True


def feature_major(module: Module, graph: fx.Graph, layers: set[Module]) -> set[fx.Node]:
    """The calls of ``layers`` whose result is best feature-major: the largest set of values that
    need one another. A residual has the format of the result it is added to."""
    calls = [n for n in graph.nodes if _layer(module, n) in layers]
    found = {n for n in graph.nodes if n in calls or _keeps_format(module, n)}
    found = {n for n in found if sum(m.target == n.target for m in calls) <= 1}
    while True:
        kept = {n for n in found if _stays(module, n, found, set(calls))}
        if kept == found:
            return kept & set(calls)
        found = kept


def _stays(module: Module, node: fx.Node, found: set[fx.Node], calls: set[fx.Node]) -> bool:
    """Whether every reader takes the format, and what the node combines has it too."""
    readers = list(node.users)
    read = all(u in found or (u in calls and node not in _residuals(u)) for u in readers)
    sources = node.all_input_nodes if node not in calls else list(_residuals(node))
    return bool(readers) and read and all(source in found for source in sources)


def _residuals(call: fx.Node) -> Iterator[fx.Node]:
    return (a for a in (*call.args[1:], *call.kwargs.values()) if isinstance(a, fx.Node))


def _layer(module: Module, node: fx.Node) -> Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _keeps_format(module: Module, node: fx.Node) -> bool:
    """Whether the node works element by element on tensors of one shape."""
    called = _layer(module, node)
    if called is not None:
        plain = isinstance(called, torch.nn.Identity | torch.nn.Dropout)
        return plain or activation_of(called) is not None
    if node.op not in ("call_function", "call_method"):
        return False
    return node.target in _JOINS or function_activation(node) is not None
