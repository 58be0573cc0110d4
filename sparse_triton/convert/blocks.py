"""The modules of a model in whose forward something is fused, and putting the fusion in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
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
    model: Module, wanted: set[Module], idle: Callable[[Module], bool]
) -> dict[Module, Block]:
    """The block of each wanted layer that something is fused with.

    idle  modules to leave alone: what they would do is unknown
    """
    shared = shared_modules(model)
    parents = {m for m in model.modules() if any(c in wanted for c in m.children())}
    blocks: dict[Module, Block] = {}
    for module in parents:
        graph = "" if idle(module) else shallow_graph(module)
        if isinstance(graph, str):
            continue
        block = Block(module, graph)
        rewritable = not why_not_rewritten(module) and module not in shared
        for fusion in find_fusions(module, graph, wanted.__contains__, shared):
            if rewritable or not fusion.in_code:
                layer = module.get_submodule(fusion.layer)
                block.fusions[layer] = fusion
                blocks[layer] = block
    return blocks


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
