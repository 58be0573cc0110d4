"""Which of a kernel's epilogues a module or a function is."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from sparse_triton.problem import Pool

Module = torch.nn.Module

_ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu", F.relu_: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu",
    "relu_": "relu", F.gelu: "gelu", F.silu: "silu",
}  # fmt: skip


def why_not_folded(norm: Module | None) -> str:
    """Why a BatchNorm cannot be folded; "" where it can; "-" for another module."""
    if type(norm) is not torch.nn.BatchNorm2d:
        return "-"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics"
    if norm.training:
        return "it is in training mode: its statistics still change; call model.eval() first"
    return ""


def activation_of(module: Any) -> str | None:
    """The activation that a module (or function) is, in the kernels' words."""
    cls = type(module)
    if cls is torch.nn.ReLU:
        return "relu"
    if cls is torch.nn.SiLU:
        return "silu"
    if cls is torch.nn.GELU:
        return "gelu" if module.approximate == "none" else None
    if cls.__module__ == "transformers.activations":
        same = {"GELUActivation": getattr(module, "act", None) is F.gelu, "SiLUActivation": True}
        return cls.__name__[:4].lower() if same.get(cls.__name__) else None
    if isinstance(module, Module):
        return None
    return _ACTIVATIONS.get(module)


def function_activation(node: fx.Node) -> str | None:
    if node.op not in ("call_function", "call_method") or len(node.args) != 1:
        return None
    plain = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if plain not in ({}, {"approximate": "none"}):
        return None
    return _ACTIVATIONS.get(node.target)


def pool_of(module: Module | None) -> Pool | None:
    """The pool that a module is, or None where no kernel has it."""
    if type(module) is torch.nn.MaxPool2d:
        if module.ceil_mode or module.return_indices or _pair(module.dilation) != (1, 1):
            return None
        return _pool("max", module)
    if type(module) is torch.nn.AvgPool2d:
        padded = _pair(module.padding) != (0, 0)
        if module.ceil_mode or module.divisor_override or (padded and not module.count_include_pad):
            return None
        return _pool("avg", module)
    return None


def _pool(kind: Any, module: Any) -> Pool:
    kernel = _pair(module.kernel_size)
    return Pool(kind, kernel, _pair(module.stride or kernel), _pair(module.padding))


def _pair(n: Any) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else (int(n[0]), int(n[1]))
