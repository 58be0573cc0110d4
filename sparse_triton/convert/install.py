"""``install_``: sparse modules made elsewhere, out of a file say, put into a dense model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sparse_triton.convert import transformer
from sparse_triton.convert.blocks import Block, apply, find_blocks
from sparse_triton.convert.formats import choose_formats
from sparse_triton.convert.observe import evaluating
from sparse_triton.convert.origin import Origin, bare
from sparse_triton.convert.read import kind_of
from sparse_triton.errors import InputError
from sparse_triton.nn import SparseModule

Module = torch.nn.Module


def install_(model: Module, layers: Mapping[str, SparseModule]) -> None:
    """Swap the named layers of a dense model, and fuse again what each module's ``fused`` names.

    ``densify_`` gives plain layers with these weights; a BatchNorm that was folded stays folded.

    Raises ``InputError`` for a name that the model does not have, or where something else follows
    a layer than what was fused; the model is then as it was.
    """
    try:
        dense = {name: model.get_submodule(name) for name in layers}
    except AttributeError as e:
        raise InputError(f"the model does not have the sparse layers: {e}") from None
    fused = {n: m for n, m in layers.items() if m.fused not in ((), (transformer.ACTIVATION,))}
    with evaluating(model):
        blocks = find_blocks(model, {dense[name] for name in fused}, None)
    for name, sparse in fused.items():
        _match(name, dense[name], sparse, blocks.get(dense[name]))
    for name, sparse in layers.items():
        _put(model, name, dense[name], sparse)
    for block in {id(b): b for b in blocks.values()}.values():
        apply(block, {dense[name]: sparse for name, sparse in layers.items()})
    transformer.adapt(model)
    if any(getattr(sparse, "feature_major", False) for sparse in layers.values()):
        choose_formats(model)


def _match(name: str, layer: Module, sparse: SparseModule, block: Block | None) -> None:
    found = tuple(block.fusions[layer].words) if block else ()
    if found[: len(sparse.fused)] != sparse.fused:
        raise InputError(
            f"{name} was fused with {', '.join(sparse.fused)}; in this model it is followed by "
            f"{', '.join(found) or 'nothing that can be fused'}"
        )
    assert block is not None
    block.fusions[layer].cut(len(sparse.fused))


def _put(model: Module, name: str, layer: Module, sparse: SparseModule) -> None:
    sparse.origin = Origin(
        shell=bare(layer), whole=False, weight_id="", dtype=sparse.values.dtype,
        turned=kind_of(layer) == "conv1d",
    )  # fmt: skip
    sparse.training = layer.training
    parent, _, key = name.rpartition(".")
    model.get_submodule(parent)._modules[key] = sparse
