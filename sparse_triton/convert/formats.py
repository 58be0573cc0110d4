"""The memory format of what goes from one sparse Linear layer to the next.

A kernel gathers from feature-major X at once, and turns a contiguous one before. So a result that
only sparse Linear layers, normalisations and dense products read, through views and elementwise
work at most, is written feature-major. Shapes and values are the same; PyTorch's elementwise
kernels keep strides, and its products take any.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from sparse_triton.convert.blocks import shared_modules
from sparse_triton.convert.recognise import activation_of, function_activation
from sparse_triton.convert.trace import deep_graph
from sparse_triton.nn import FormattedLayerNorm, SparseLinear
from sparse_triton.nn.attention import attention

Module = torch.nn.Module
_JOINS = (operator.add, operator.mul, torch.add, torch.mul, "add", "mul")
_VIEWS = (
    operator.getitem,
    getattr,
    "permute",
    "transpose",
    "unbind",
    "unflatten",
    "chunk",
    "split",
)
_PRODUCTS = (operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm", attention)


def choose_formats(model: Module, calls: Mapping[Module, int] | None = None) -> None:
    """Choose the format of what converted Linear layers, and LayerNorms between them, write, in the
    largest parts of the model that can be traced.

    calls  how often each module was called in one forward pass; None: it was never watched. Layers
           that were called otherwise than the part they are in stay as they are
    """
    layers = {m for m in set(model.modules()) - shared_modules(model) if _chooses(m)}
    if sum(isinstance(m, SparseLinear) for m in layers) > 1:
        for module, graph in _traced_parts(model):
            own = {m for m in layers if calls is None or calls[m] == calls[module] > 0}
            _set_formats(module, graph, own)


def restore_norms(model: Module) -> None:
    """LayerNorms as they were."""
    for module in model.modules():
        if type(module) is FormattedLayerNorm:
            module.__class__ = torch.nn.LayerNorm  # type: ignore[assignment]
            module.__dict__.pop("feature_major", None)


def _traced_parts(module: Module) -> Iterator[tuple[Module, fx.Graph]]:
    if not any(isinstance(m, SparseLinear) for m in module.modules() if m is not module):
        return
    graph = deep_graph(module)
    if isinstance(graph, str):
        for child in module.children():
            yield from _traced_parts(child)
    else:
        yield module, graph


def _set_formats(module: Module, graph: fx.Graph, layers: set[Module]) -> None:
    found = feature_major(module, graph, layers)
    for node in graph.nodes:
        layer: Any = _layer(module, node)
        if layer not in layers:
            continue
        if isinstance(layer, SparseLinear):
            layer.feature_major = node in found
        elif node in found or node.args[0] in found:
            layer.__class__ = FormattedLayerNorm
            layer.feature_major = node in found


def feature_major(module: Module, graph: fx.Graph, layers: set[Module]) -> set[fx.Node]:
    """The values that are best feature-major: the largest set of those that need one another. A
    residual has the format of the result it is added to; what else a layer reads may have any."""
    calls = {n for n in graph.nodes if _layer(module, n) in layers}
    found = {n for n in graph.nodes if n in calls or _keeps_format(module, n)}
    found = {n for n in found if sum(m.target == n.target for m in calls) <= 1}
    while True:
        kept = {n for n in found if _stays(n, found, calls)}
        if kept == found:
            return kept
        found = kept


def _stays(node: fx.Node, found: set[fx.Node], calls: set[fx.Node]) -> bool:
    """Whether every reader takes the format, and what the node combines has it too."""
    read = all(
        u in found or u.target in _PRODUCTS or (u in calls and node not in _residuals(u))
        for u in node.users
    )
    sources = _residuals(node) if node in calls else node.all_input_nodes
    return bool(node.users) and read and all(source in found for source in sources)


def _residuals(call: fx.Node) -> list[fx.Node]:
    return [a for a in (*call.args[1:], *call.kwargs.values()) if isinstance(a, fx.Node)]


def _chooses(module: Module) -> bool:
    """Whether the module may write either format."""
    if isinstance(module, SparseLinear):
        return module.origin is not None
    plain = type(module) in (torch.nn.LayerNorm, FormattedLayerNorm)
    return plain and len(module.normalized_shape) == 1  # type: ignore[arg-type]


def _layer(module: Module, node: fx.Node) -> Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _keeps_format(module: Module, node: fx.Node) -> bool:
    """Whether the node is a view, or works element by element on tensors of one shape."""
    called = _layer(module, node)
    if called is not None:
        plain = isinstance(called, torch.nn.Identity | torch.nn.Dropout)
        return plain or activation_of(called) is not None
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target is getattr and node.args[1] not in ("mT", "T"):
        return False
    return node.target in (*_JOINS, *_VIEWS) or function_activation(node) is not None
