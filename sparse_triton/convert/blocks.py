"""The modules of a model in whose forward something is fused, and putting the fusion in place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import fx

from sparse_triton.convert.origin import Absorbed
from sparse_triton.convert.patterns import Fusion, find_fusions
from sparse_triton.convert.rewrite import fused_code, rewrite, why_not_rewritten
from sparse_triton.convert.trace import shallow_graph
from sparse_triton.nn import SparseModule

Module = torch.nn.Module


@dataclass
class Block:
    """A module whose forward was traced, with the fusions found in it, by layer."""

    module: Module
    graph: fx.Graph
    fusions: dict[Module, Fusion] = field(default_factory=dict)


def find_blocks(
    model: Module,
    wanted: set[Module],
    calls: Counter[Module] | None,
    untraced: dict[Module, str] | None = None,
) -> dict[Module, Block]:
    """The block of each wanted layer that something is fused with.

    calls     how often each module was called in one forward pass; None: it was never watched
    untraced  is told of modules that call wanted layers and could not be traced, and why

    A layer that others than its own block call, past the block's forward, is left alone: as far as
    their forwards can be traced, and where the calls were counted.
    """
    shared = shared_modules(model)
    blocks: dict[Module, Block] = {}
    for module, graph, mine in own_graphs(model, wanted, untraced):
        block = Block(module, graph)
        rewritable = not why_not_rewritten(module) and module not in shared
        for fusion in find_fusions(module, graph, mine.__contains__, shared):
            if (rewritable or not fusion.in_code) and _as_traced(module, fusion, calls):
                layer = module.get_submodule(fusion.layer)
                block.fusions[layer] = fusion
                blocks[layer] = block
    return blocks


def own_graphs(
    model: Module, wanted: set[Module], untraced: dict[Module, str] | None = None
) -> Iterator[tuple[Module, fx.Graph, set[Module]]]:
    """Each module whose forward can be traced and has wanted layers below it: its graph, and which
    of them it alone calls."""
    block_of = {
        layer: _caller(model, layer, name)
        for name, layer in model.named_modules()
        if layer in wanted
    }
    graphs: dict[Module, fx.Graph] = {}
    for module in model.modules():
        if any(child in wanted for child in module.modules() if child is not module):
            graph = shallow_graph(module)
            if not isinstance(graph, str):
                graphs[module] = graph
            elif untraced is not None and module in block_of.values():
                untraced[module] = graph
    alone = wanted - _reached(graphs, block_of)
    for module, graph in graphs.items():
        yield module, graph, {layer for layer in alone if block_of[layer] is module}


def _caller(model: Module, layer: Module, name: str) -> Module:
    """The nearest module above a layer that has a forward: lists and dictionaries have none."""
    while name:
        name = name.rpartition(".")[0]
        above = model.get_submodule(name)
        if not isinstance(above, torch.nn.ModuleList | torch.nn.ModuleDict):
            return above
    return layer


def _reached(graphs: dict[Module, fx.Graph], block_of: dict[Module, Module]) -> set[Module]:
    """Layers that a forward other than their block's calls or reads."""
    found = set()
    for module, graph in graphs.items():
        for node in graph.nodes:
            path = str(node.target)
            while node.op in ("call_module", "get_attr") and path:
                target = _submodule(module, path)
                if target in block_of and block_of[target] is not module:
                    found.add(target)
                path = path.rpartition(".")[0]
    return found


def _submodule(module: Module, path: str) -> Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:  # a parameter or a buffer
        return None


def _as_traced(module: Module, fusion: Fusion, calls: Counter[Module] | None) -> bool:
    """Whether the block ran, and its modules as often as it did."""
    if calls is None:
        return True
    parts = [module.get_submodule(path) for path in (fusion.layer, *fusion.modules)]
    return calls[module] > 0 and all(calls[part] == calls[module] for part in parts)


def apply(block: Block, fused: dict[Module, SparseModule]) -> None:
    """Fuse the layers that were swapped: ``fused`` maps each to its sparse module."""
    fusions = [(f, fused[layer]) for layer, f in block.fusions.items() if layer in fused]
    for fusion, sparse in fusions:
        for path in fusion.modules:
            stand_in = _absorb(block.module, path)
            if path == fusion.batch_norm:
                sparse.origin.norm.append(stand_in)
    in_code = [fusion for fusion, _ in fusions if fusion.in_code]
    if in_code:
        rewrite(block.module, fused_code(block.graph, in_code))


def _absorb(block: Module, path: str) -> Absorbed:
    original = block.get_submodule(path)
    stand_in = Absorbed(original)
    stand_in.training = original.training
    parent, _, key = path.rpartition(".")
    block.get_submodule(parent)._modules[key] = stand_in
    return stand_in


def names_of_modules(model: Module) -> dict[Module, list[str]]:
    """Every name of each module."""
    names = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return dict(names)


def shared_modules(model: Module) -> set[Module]:
    """Modules with several names."""
    return {module for module, names in names_of_modules(model).items() if len(names) > 1}
