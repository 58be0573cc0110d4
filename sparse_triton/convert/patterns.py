"""What one sparse kernel can do besides its product, found in a traced forward.

From a layer's output on, as long as nobody else reads the value in between: BatchNorm (folded) →
residual add, past dropouts → activation → max or average pool; the last not after a residual.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from sparse_triton.convert.read import is_pruning_hook, kind_of
from sparse_triton.convert.recognise import (
    activation_of,
    function_activation,
    pool_of,
    why_not_folded,
)
from sparse_triton.problem import Pool

Module = torch.nn.Module

_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


@dataclass
class Fusion:
    """A layer and what follows it. ``nodes`` are the absorbed ones, the layer's own first.

    modules  paths, below the traced module, of absorbed modules that nothing else in it calls
    """

    layer: str
    nodes: list[fx.Node]
    batch_norm: str | None = None
    residual: fx.Node | None = None
    activation: str | None = None
    pool: Pool | None = None
    modules: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def in_code(self) -> bool:
        """Whether the forward itself has to change: not everything absorbed is a module."""
        return self.residual is not None or len(self.modules) < len(self.nodes) - 1

    def cut(self, length: int) -> None:
        """Keep the first ``length`` things that follow the layer."""
        self.nodes, self.words = self.nodes[: length + 1], self.words[:length]
        kept = {str(node.target) for node in self.nodes[1:]}
        self.modules = [path for path in self.modules if path in kept]
        self.residual = self.residual if "residual" in self.words else None


def find_fusions(
    module: Module, graph: fx.Graph, wanted: Callable[[Module], bool], shared: set[Module]
) -> list[Fusion]:
    """The fusions of the layers that are ``wanted``, in the order of the graph.

    ``shared`` modules are known under several names; none of them is absorbed or converted.
    """
    taken: set[fx.Node] = set()
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            continue
        layer = module.get_submodule(str(node.target))
        if layer in shared or not wanted(layer) or _calls(graph, node.target) != 1:
            continue
        fusion = _grow(_Finder(module, graph, shared, taken), node, layer)
        if len(fusion.nodes) > 1:
            taken.update(fusion.nodes)
            found.append(fusion)
    return found


@dataclass
class _Finder:
    module: Module
    graph: fx.Graph
    shared: set[Module]
    taken: set[fx.Node]

    def only_user(self, node: fx.Node) -> fx.Node | None:
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0] not in self.taken else None

    def called(self, node: fx.Node | None) -> Module | None:
        """The module behind a node, if it is one that may be absorbed."""
        if node is None or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return None
        module = self.module.get_submodule(str(node.target))
        return None if _hooked(module) else module

    def own(self, node: fx.Node) -> bool:
        """Whether the module is this node's alone, so that it can leave the tree."""
        module = self.module.get_submodule(str(node.target))
        return module not in self.shared and _calls(self.graph, node.target) == 1


def _grow(find: _Finder, node: fx.Node, layer: Module) -> Fusion:
    fusion = Fusion(str(node.target), [node])
    if _hooked(layer):
        return fusion
    if kind_of(layer) == "conv2d":
        _take_batch_norm(find, fusion)
    _take_residual(find, fusion)
    _take_activation(find, fusion)
    if kind_of(layer) == "conv2d" and fusion.residual is None:
        _take_pool(find, fusion)
    return fusion


def _take(find: _Finder, fusion: Fusion, node: fx.Node, words: str) -> None:
    fusion.nodes.append(node)
    fusion.words.append(words)
    if node.op == "call_module" and find.own(node):
        fusion.modules.append(str(node.target))


def _take_batch_norm(find: _Finder, fusion: Fusion) -> None:
    node = find.only_user(fusion.nodes[-1])
    norm = find.called(node)
    if node is None or why_not_folded(norm) or not find.own(node):
        return
    fusion.batch_norm = str(node.target)
    _take(find, fusion, node, "batch norm")


def _take_residual(find: _Finder, fusion: Fusion) -> None:
    node, skipped = _past_dropout(find, fusion.nodes[-1])
    last = skipped[-1] if skipped else fusion.nodes[-1]
    if node is None or node.op not in ("call_function", "call_method"):
        return
    if node.target not in _ADDS or len(node.args) != 2 or set(node.kwargs) - {"alpha"}:
        return
    a, b = node.args
    other = b if a is last else a
    in_place = node.target in (operator.iadd, "add_")
    if not isinstance(other, fx.Node) or other is last or node.kwargs.get("alpha", 1) != 1:
        return
    if (in_place and a is not last) or _written_between(find, [*fusion.nodes, *skipped], node):
        return
    for dropout in skipped:
        _take(find, fusion, dropout, "dropout")
    fusion.residual = other
    _take(find, fusion, node, "residual")


def _past_dropout(find: _Finder, node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """The value's only reader past dropouts, which do nothing in eval mode, and the dropouts."""
    skipped: list[fx.Node] = []
    reader = find.only_user(node)
    while reader is not None:
        module = find.called(reader)
        if not isinstance(module, torch.nn.Dropout) or module.training:
            break
        skipped.append(reader)
        reader = find.only_user(reader)
    return reader, skipped


def _written_between(find: _Finder, own: list[fx.Node], end: fx.Node) -> bool:
    """Whether the input of the layer, the first of its ``own`` nodes, may be written to before
    ``end``, where the call moves to."""
    source, node = own[0].args[0], own[0].next
    while node is not end:
        if node not in own:
            if (
                node.target in _IN_PLACE
                or node.kwargs.get("inplace")
                or str(node.target)[-1] == "_"
            ):
                return True
            opaque = node.op == "call_module" and not kind_of(
                find.module.get_submodule(str(node.target))
            )
            if opaque and source in node.all_input_nodes:
                return True
        node = node.next
    return False


def _take_activation(find: _Finder, fusion: Fusion) -> None:
    node = find.only_user(fusion.nodes[-1])
    if node is None:
        return
    if node.op == "call_module":
        name = activation_of(find.called(node))
    else:
        name = function_activation(node)
    if name is not None:
        fusion.activation = name
        _take(find, fusion, node, name)


def _take_pool(find: _Finder, fusion: Fusion) -> None:
    node = find.only_user(fusion.nodes[-1])
    pool = pool_of(find.called(node))
    if node is not None and pool is not None:
        fusion.pool = pool
        _take(find, fusion, node, f"{pool.kind} pool {pool.kernel[0]}x{pool.kernel[1]}")


def _calls(graph: fx.Graph, target: Any) -> int:
    """How often the module is called or its parts are read."""
    path = f"{target}."
    return sum(
        (n.op == "call_module" and n.target == target)
        or (n.op in ("get_attr", "call_module") and str(n.target).startswith(path))
        for n in graph.nodes
    )


def _hooked(module: Module) -> bool:
    """Whether somebody watches the module; the masks of ``torch.nn.utils.prune`` do not count."""
    pre = [h for h in module._forward_pre_hooks.values() if not is_pruning_hook(h)]
    return bool(
        pre or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    )
