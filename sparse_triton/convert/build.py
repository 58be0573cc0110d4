"""From a layer and what follows it to its sparse module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparse_triton.convert.origin import Origin, bare, layout_of, negative_zeros
from sparse_triton.convert.patterns import Fusion
from sparse_triton.convert.read import Layer, is_pruning_hook
from sparse_triton.filter import SparseFilter
from sparse_triton.matrix import SparseMatrix
from sparse_triton.nn import SparseConv2d, SparseConvPool2d, SparseLinear, SparseModule

Tensor = torch.Tensor
Module = torch.nn.Module
HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip


def build(layer: Layer, w: Tensor, fusion: Fusion | None, norm: Module | None) -> SparseModule:
    """The sparse module of a layer with weight ``w``, with its ``origin`` and its hooks.

    norm  the BatchNorm that follows and is folded in
    """
    if "weight" in layer.module.__dict__:  # prune's product: made anew anyway
        layer.module.weight = w
    bias = _bias(layer)
    activation = fusion.activation if fusion else None
    if layer.kind == "conv2d":
        sparse, unfolded = _conv(layer.module, w, bias, fusion, norm)
    else:
        W = SparseMatrix.from_dense(w.mT if layer.kind == "conv1d" else w)
        sparse, unfolded = SparseLinear(W, bias, activation=activation), None
    sparse.origin = Origin(
        shell=layer.module if layer.reparametrized else bare(layer.module),
        whole=layer.reparametrized,
        weight_id=sparse.weight_id,
        dtype=w.dtype,
        layout=layout_of(layer.parameters[0]),
        turned=layer.kind == "conv1d",
        trains=any(p.requires_grad for p in layer.parameters),
        negative=negative_zeros(w),
        unfolded=unfolded,
        bias=None if unfolded is None else bias,
    )
    sparse.fused = tuple(fusion.words) if fusion else ()
    sparse.training = layer.module.training
    _carry_hooks(layer.module, sparse)
    return sparse


def _bias(layer: Layer) -> torch.nn.Parameter | None:
    """The layer's own parameter; a new one where a mask or a parametrization makes the bias."""
    module: Any = layer.module
    if "bias_orig" in module._parameters:
        masked = module.bias_orig.detach() * module.bias_mask
        return torch.nn.Parameter(masked, module.bias_orig.requires_grad)
    bias = module.bias
    if bias is None or isinstance(bias, torch.nn.Parameter):
        return bias
    return torch.nn.Parameter(bias.detach(), bias.requires_grad)


def _conv(
    conv: Any,
    w: Tensor,
    bias: torch.nn.Parameter | None,
    fusion: Fusion | None,
    norm: Module | None,
) -> tuple[SparseModule, SparseFilter | None]:
    unfolded, folded_bias = None, bias
    if norm is not None:
        unfolded = SparseFilter.from_dense(w, conv.groups).to("cpu")
        w, shift = fold(w, bias, norm)
        folded_bias = torch.nn.Parameter(shift, requires_grad=False)
    W = SparseFilter.from_dense(w, conv.groups)
    activation = fusion.activation if fusion else None
    how = (folded_bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    pool = fusion.pool if fusion else None
    if pool is None:
        return SparseConv2d(W, *how, activation=activation), unfolded
    return SparseConvPool2d(
        W, *how, activation=activation, pool=pool.kind, pool_kernel=pool.kernel,
        pool_stride=pool.stride, pool_padding=pool.padding,
    ), unfolded  # fmt: skip


def fold(w: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution and the BatchNorm in one, each rounded once from float64.

    ``gamma * (w x + b - mean) / sqrt(var + eps) + beta``: the zeros of w stay zeros.
    """
    wide: list[Tensor | None] = [
        None if t is None else t.detach().double()
        for t in (bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    ]
    b, mean, var, gamma, beta = wide
    assert mean is not None and var is not None
    scale = torch.rsqrt(var + norm.eps) * (1.0 if gamma is None else gamma)
    shift = (0.0 if b is None else b) - mean
    shift = shift * scale + (0.0 if beta is None else beta)
    # An infinite scale would make NaN of zeros: only what is stored is multiplied.
    scaled = torch.where(w != 0, w.double() * scale[:, None, None, None], 0.0)
    return scaled.to(w.dtype), shift.to(w.dtype)


def _carry_hooks(module: Module, sparse: SparseModule) -> None:
    """Whoever watches the layer watches the sparse one; a pruning hook has nothing to do there."""
    for name in HOOKS:
        own: dict[int, Callable[..., Any]] = getattr(module, name, {})
        kept = {k: h for k, h in own.items() if not is_pruning_hook(h)}
        getattr(sparse, name).update(kept)
