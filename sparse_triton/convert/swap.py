"""``sparsify_`` and ``densify_``: layers of a model swapped for sparse ones, and back."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch

from sparse_triton.convert import transformer
from sparse_triton.convert.blocks import Block, apply
from sparse_triton.convert.config import SparsifyConfig
from sparse_triton.convert.formats import choose_formats, restore_norms
from sparse_triton.convert.guard import allow_save_pretrained, refuse_save_pretrained
from sparse_triton.convert.origin import Absorbed, cast
from sparse_triton.convert.plan import FilterFn, Step, plan
from sparse_triton.convert.report import Report
from sparse_triton.convert.rewrite import restore
from sparse_triton.errors import InputError
from sparse_triton.nn import SparseModule

Module = torch.nn.Module
ModuleT = TypeVar("ModuleT", bound=Module)


def sparsify_(
    model: Module,
    config: SparsifyConfig | None = None,
    filter_fn: FilterFn | None = None,
    example_inputs: Any = None,
) -> Report:
    """Swap the sparse layers of a model for layers with sparse kernels, in place.

    model           any module; Linear, Conv2d and the Conv1D of transformers are swapped where
                    their weights are sparse enough: stored zeros, or masks of
                    ``torch.nn.utils.prune`` and of parametrizations
    config          see ``SparsifyConfig``
    filter_fn       ``(name, layer) -> bool``: which layers; None: every one
    example_inputs  a tensor, a tuple of positional or a dict of keyword arguments: the model runs
                    once, to see the shapes. Layers for which dense is faster then stay dense, and
                    the report has the expected gain

    In eval mode, BatchNorm is folded into the convolution before it, and activation, residual and
    pool become part of the kernel, wherever a block's forward can be traced. The forward is then
    that of eval mode. The converted weights are constants: they do not train.

    The error of a fused layer is ``sparse_triton.numerics.error_bound`` of what it computes, with
    one more rounding for each folded weight. See ``densify_`` for the way back.

    Raises ``InputError`` for a model that is no module.

    >>> import torch, sparse_triton as st
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    >>> _ = st.prune_(model, 0.9)
    >>> report = st.sparsify_(model)
    >>> report.converted, report["0"].fused
    (('0',), ('relu',))
    """
    config = config or SparsifyConfig()
    planned = plan(_module(model), config, filter_fn, example_inputs)
    _apply(planned.steps)
    transformer.adapt(model)
    if config.fuse:
        choose_formats(model, planned.calls)
    if planned.steps:
        refuse_save_pretrained(model)
    return planned.report


def sparsify(
    model: ModuleT,
    config: SparsifyConfig | None = None,
    filter_fn: FilterFn | None = None,
    example_inputs: Any = None,
) -> tuple[ModuleT, Report]:
    """``sparsify_`` on a copy; the model itself is as before."""
    _module(model)
    twin = copy.deepcopy(model, _uncopied(model))
    return twin, sparsify_(twin, config, filter_fn, example_inputs)


def advise(
    model: Module,
    config: SparsifyConfig | None = None,
    filter_fn: FilterFn | None = None,
    example_inputs: Any = None,
) -> Report:
    """The report that ``sparsify_`` would give; the model is not touched."""
    return plan(_module(model), config or SparsifyConfig(), filter_fn, example_inputs).report


def densify_(model: Module) -> tuple[str, ...]:
    """Undo ``sparsify_``: the layers as they were, bit for bit, with their classes and names.

    Values that were loaded since, casts and moves to another device are kept; where other values
    were loaded into a layer with a folded BatchNorm, the result keeps it folded.
    Returns the names of the layers that are dense again. A sparse module that ``sparsify_`` did not
    make is left as it is.
    """
    transformer.undo(_module(model))
    restore_norms(model)
    names = []
    for name, module in list(model.named_modules()):
        restore(module)
        if isinstance(module, SparseModule) and module.origin is not None and name:
            path, _, key = name.rpartition(".")
            model.get_submodule(path)._modules[key] = _dense(module)
            names.append(name)
    for name, module in list(model.named_modules()):
        if isinstance(module, Absorbed):
            path, _, key = name.rpartition(".")
            model.get_submodule(path)._modules[key] = module.original[0]
    if not any(isinstance(m, SparseModule) for m in model.modules()):
        allow_save_pretrained(model)
    return tuple(names)


def _dense(sparse: SparseModule) -> Module:
    origin = sparse.origin
    for norm in origin.norm:
        if origin.unfolded is None or origin.changed(sparse):
            norm.original = (torch.nn.Identity(),)
        else:
            cast(norm.original[0], sparse.values, origin.dtype)
    layer: Module = origin.layer(sparse)
    layer.train(sparse.training)
    return layer


def _apply(steps: list[Step]) -> None:
    by_block: dict[int, tuple[Block, dict[Module, SparseModule]]] = {}
    for step in steps:
        assert step.layer.parent is not None
        step.layer.parent._modules[step.layer.key] = step.sparse
        if step.block is not None:
            _, fused = by_block.setdefault(id(step.block), (step.block, {}))
            fused[step.layer.module] = step.sparse
    for block, fused in by_block.values():
        apply(block, fused)


def _uncopied(model: Module) -> dict[int, Any]:
    """A memo for ``deepcopy`` with the tensors that it cannot copy: products of a pruning mask,
    which hold a graph, and sparse layouts."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name in ("weight", "bias"):
            product = module.__dict__.get(name)
            if isinstance(product, torch.Tensor):
                memo[id(product)] = product.detach().clone()
    for p in model.parameters():
        if p.layout is not torch.strided:
            memo[id(p)] = torch.nn.Parameter(p.detach().clone(), p.requires_grad)
    return memo


def _module(model: Any) -> Module:
    if not isinstance(model, Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return model
