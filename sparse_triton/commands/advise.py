"""advise: which layers of a model are worth converting, and why the others are not."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch

from sparse_triton.commands import show
from sparse_triton.convert import SparsifyConfig, advise
from sparse_triton.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help=".safetensors (also sparse-bitmask), .pt, .pth or .bin file of weights, or "
        "package.module:function, which returns a model or (model, example inputs)",
    )
    least = SparsifyConfig().min_sparsity
    parser.add_argument(
        "--min-sparsity", type=float, default=least, help=f"least share of zeros (default {least})"
    )
    parser.add_argument("--plot", metavar="PNG", help="write a chart of the weights' bytes")


def run(args: argparse.Namespace) -> int:
    from autotune.weights_in import read_model  # on demand: autotune imports this package

    found = read_model(args.model)
    model, example = found if isinstance(found, tuple) else (found, None)
    if isinstance(model, Mapping):
        model = layers_of(model)
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{args.model} gives a {type(model).__name__}, a model is needed")
    report = advise(model, SparsifyConfig(min_sparsity=args.min_sparsity), None, example)
    if args.plot:
        report.plot(args.plot)
    show(args, report.to_dict(), str(report))
    return 0


def layers_of(tensors: Mapping[str, Any]) -> torch.nn.Module:
    """A module tree with the names of a state dict: weights of rank 2 as Linear layers, of rank 4
    as convolutions. Masks of ``torch.nn.utils.prune`` are applied."""
    model = torch.nn.Module()
    for name, t in tensors.items():
        if not isinstance(t, torch.Tensor) or t.ndim not in (2, 4) or name.endswith("_mask"):
            continue
        mask = tensors.get(name.removesuffix("_orig") + "_mask")
        layer = (
            torch.nn.Linear(1, 1, False) if t.ndim == 2 else torch.nn.Conv2d(1, 1, 1, bias=False)
        )
        masked = t if mask is None else t * mask.to(t.dtype)
        layer.weight = torch.nn.Parameter(masked, requires_grad=False)
        *path, key = name.removesuffix("_orig").removesuffix(".weight").split(".")
        parent = model
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        below = parent._modules.get(key)  # a name may be the beginning of another one
        layer._modules.update({} if below is None else below._modules)
        parent.add_module(key, layer)
    return model
