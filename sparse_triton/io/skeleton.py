"""From a model to its state and its sparse modules' description, and back onto a skeleton."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from sparse_triton.convert.guard import refuse_save_pretrained
from sparse_triton.convert.install import install_
from sparse_triton.convert.read import kind_of
from sparse_triton.errors import FileFormatError, InputError, SparseTritonError
from sparse_triton.io.layout import State
from sparse_triton.matrix import SparseMatrix
from sparse_triton.nn import MODULES, SparseModule
from sparse_triton.nn.base import PARTS
from sparse_triton.prune import Mask

Description = dict[str, dict[str, Any]]


def state_of(model: nn.Module | Mapping[str, Any]) -> State:
    """The model's state dict, with each sparse module's weight as one matrix, masks applied."""
    if not isinstance(model, nn.Module):
        return dict(model)
    state: State = model.state_dict()
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if isinstance(module, SparseModule):
            for part in PARTS:
                del state[prefix + part]
            state[f"{prefix}weight"] = module.matrix
        elif _is_masked(module):
            for key in [k for k in state if k.startswith(f"{prefix}parametrizations.weight.")]:
                del state[key]
            state[f"{prefix}weight"] = module.weight
        elif f"{prefix}weight_mask" in state:  # torch.nn.utils.prune
            original, mask = state.pop(f"{prefix}weight_orig"), state.pop(f"{prefix}weight_mask")
            assert isinstance(original, torch.Tensor) and isinstance(mask, torch.Tensor)
            state[f"{prefix}weight"] = original * mask
    return state


def _is_masked(module: nn.Module) -> bool:
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, nn.ModuleDict) or "weight" not in parametrizations:
        return False
    return all(isinstance(p, Mask) for p in parametrizations["weight"].children())


def describe(model: nn.Module | Mapping[str, Any]) -> Description:
    """Type, ``spec()`` and what was fused of each sparse module, by name."""
    if not isinstance(model, nn.Module):
        return {}
    return {
        name: {"type": type(m).__name__, "spec": m.spec(), "fused": list(m.fused)}
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, SparseModule)
    }


def restore_(model: nn.Module, described: Any, state: State, strict: bool) -> nn.Module:
    """Give a model its weights; where it is dense and the file is not, its layers are swapped.

    Nothing is touched before everything fits. Raises ``InputError`` for a model of another
    architecture, dtype or conversion.
    """
    described = _checked(described)
    own = describe(model)
    if own and own != described:
        raise InputError(
            f"the model's sparse modules differ from the file's: {_difference(own, described)}; "
            "load into the dense model, or into one converted the same way"
        )
    converted = bool(own) or not described
    like = model if converted else rebuild_(_hollow(model), described, state)
    _compare(state_of(like), state, strict)
    if converted:
        for name in described:
            _set_matrix(model.get_submodule(name), _matrix(state, name))
    else:
        rebuild_(model, described, state)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            new = state.get(name)
            if isinstance(new, torch.Tensor):
                tensor.copy_(new)
    return model


def rebuild_(model: nn.Module, described: Description, state: State) -> nn.Module:
    """Put the described modules in, each on the device of the layer it replaces."""
    layers = {name: _sparse(model, name, d, state) for name, d in described.items()}
    install_(model, layers)
    refuse_save_pretrained(model)
    return model


def _sparse(model: nn.Module, name: str, description: dict[str, Any], state: State) -> SparseModule:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise InputError(f"the model has no module {name!r}, the file has") from None
    if not name:
        raise InputError(f"the file holds one {description['type']} alone; load into such a module")
    device = next((p.device for p in layer.parameters()), torch.device("cpu"))
    device = torch.device("cpu") if device.type == "meta" else device
    bias = state.get(f"{name}.bias")
    assert bias is None or isinstance(bias, torch.Tensor)
    try:
        sparse = MODULES[description["type"]].from_spec(
            description["spec"],
            _matrix(state, name).to(device),
            None if bias is None else bias.to(device),
        )
    except (TypeError, SparseTritonError) as e:
        raise FileFormatError(f"{name} is not a sparse module of this version: {e}") from e
    sparse.fused = tuple(description["fused"])
    _check_replaced(name, layer, sparse)
    return sparse


def _check_replaced(name: str, layer: nn.Module, sparse: SparseModule) -> None:
    dense = getattr(layer, "weight", None)
    mine = _facts(dense) if isinstance(dense, torch.Tensor) else "without a weight"
    theirs = _facts(sparse.weight.T if kind_of(layer) == "conv1d" else sparse.weight)
    if mine != theirs:
        raise InputError(f"{name}.weight is {theirs} in the file, {mine} in the model")


def _checked(described: Any) -> Description:
    if not isinstance(described, dict):
        raise FileFormatError("the document must hold the object 'modules'")
    for name, d in described.items():
        fused = d.get("fused") if isinstance(d, dict) else None
        words = isinstance(fused, list) and all(isinstance(word, str) for word in fused)
        if not words or not isinstance(d.get("spec"), dict):
            raise FileFormatError(f"{name}: not a description of a sparse module: {d!r:.100}")
        if d.get("type") not in MODULES:
            raise FileFormatError(
                f"{name} is a {d.get('type')!r:.60}, this version knows {', '.join(MODULES)}"
            )
    return described


def _difference(a: Description, b: Description) -> str:
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _matrix(state: State, name: str) -> SparseMatrix:
    matrix = state.get(f"{name}.weight" if name else "weight")
    if not isinstance(matrix, SparseMatrix):
        raise FileFormatError(f"the file describes the sparse module {name!r} without its weight")
    return matrix


def _set_matrix(module: nn.Module, matrix: SparseMatrix) -> None:
    module.load_state_dict({part: getattr(matrix, part) for part in PARTS}, strict=False)


def _hollow(model: nn.Module) -> nn.Module:
    """A copy without numbers: modules of its own, tensors on the meta device."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = b.to("meta")
    return copy.deepcopy(model, memo)


def _compare(own: State, state: State, strict: bool) -> None:
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if strict and (missing or unexpected):
        raise InputError(
            f"the file does not fit the model: it lacks {_few(missing)} and has {_few(unexpected)} "
            "that the model lacks; build the same architecture, or pass strict=False"
        )
    for name in own.keys() & state.keys():
        mine, theirs = _facts(own[name]), _facts(state[name])
        if mine != theirs:
            raise InputError(
                f"{name} is {theirs} in the file, {mine} in the model; build the same "
                "architecture and convert it with .to(dtype) first"
            )


def _facts(value: torch.Tensor | SparseMatrix) -> str:
    kind = "sparse " if isinstance(value, SparseMatrix) else ""
    return f"{kind}{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return (", ".join(ordered[:4]) or "nothing") + more
