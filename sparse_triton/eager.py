"""Whether an eager call may go straight to its kernel."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_plain(X: Tensor, bias: Tensor | None, residual: Tensor | None) -> bool:
    """Nothing watches or transforms the call: no tracing, mode, subclass, functorch transform,
    autocast or gradient. Then PyTorch's dispatcher would only cost time: half of a small call's.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if type(X) not in _PLAIN or type(bias) not in _PLAIN or type(residual) not in _PLAIN:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._is_any_autocast_enabled():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if not torch.is_grad_enabled():
        return True
    return not (
        X.requires_grad
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )
