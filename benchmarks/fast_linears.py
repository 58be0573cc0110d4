"""A dense network with each Linear layer as the fastest of the library calls that compute it.

PyTorch's own choice for ``nn.Linear`` may take twice as long: which kernel cuBLAS takes depends on
how the call is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from autotune.timing import timer_for
from benchmarks.fused_models import is_relu

Tensor = torch.Tensor
Form = Callable[[Tensor], Tensor]
Known = dict[tuple[Any, ...], str]
REPEATS = 5


def fastest_linears(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """The model with every Linear, and a ReLU that alone follows it, as one ``FastestLinear``."""
    modules = dict(model.named_modules())
    if not any(type(m) is nn.Linear for m in modules.values()):
        return model
    seen, known = _inputs(model, inputs), Known()
    fast = fx.GraphModule(model, fx.Tracer().trace(model))
    for node in list(fast.graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(layer) is nn.Linear and layer in seen:
            users = list(node.users)
            relu = users[0] if len(users) == 1 and is_relu(users[0], modules) else None
            call = FastestLinear(layer, relu is not None, seen[layer], known)
            fast.set_submodule(str(node.target), call)
            if relu is not None:
                relu.replace_all_uses_with(node)
    fast.graph.eliminate_dead_code()
    fast.recompile()
    return fast


class FastestLinear(nn.Module):
    """``form``: which of the calls it is; ``known``: of layers and inputs like these."""

    def __init__(self, layer: nn.Linear, relu: bool, x: Tensor, known: Known) -> None:
        super().__init__()
        forms = dict(forms_of(layer, relu))
        key = (layer.weight.shape, layer.bias is None, relu, x.shape, x.stride())
        if key not in known:
            known[key] = min(forms, key=lambda name: _us(forms[name], x))
        self.form = known[key]
        self.call = forms[self.form]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def forms_of(layer: nn.Linear, relu: bool) -> Iterator[tuple[str, Form]]:
    """Ways to write ``relu(x @ W.T + b)``, or without the ReLU."""
    w, b = layer.weight, layer.bias
    turned = w.t().contiguous()
    rows, end = layer.out_features, torch.relu_ if relu else (lambda y: y)

    def flat(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    def shaped(y: Tensor, x: Tensor) -> Tensor:
        return y.view(*x.shape[:-1], rows)

    yield "linear", lambda x: end(nn.functional.linear(x, w, b))
    if b is None:
        yield "turned weight", lambda x: end(shaped(torch.mm(flat(x), turned), x))
        return
    yield "turned weight", lambda x: end(shaped(torch.addmm(b, flat(x), turned), x))
    yield "bias afterwards", lambda x: end(shaped(torch.mm(flat(x), w.t()).add_(b), x))
    yield (
        "turned weight, bias afterwards",
        lambda x: end(shaped(torch.mm(flat(x), turned).add_(b), x)),
    )
    if relu:
        fused: Any = torch._addmm_activation  # type: ignore[attr-defined]
        yield "with ReLU", lambda x: shaped(fused(b, flat(x), w.t()), x)
        yield "turned weight, with ReLU", lambda x: shaped(fused(b, flat(x), turned), x)


def _inputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, Tensor]:
    """What each Linear was called with, strides and all."""
    seen: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[layer] = args[0]

    linears = (m for m in model.modules() if type(m) is nn.Linear)
    handles = [m.register_forward_pre_hook(note) for m in linears]
    try:
        with torch.inference_mode():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _us(form: Form, x: Tensor) -> float:
    """Median, alone; the input as it is."""
    with torch.inference_mode():
        return sorted(timer_for(lambda: form(x), x.device).samples(REPEATS))[REPEATS // 2]
