"""A dense network with cuDNN's one call for convolution, bias, ReLU and a sum before it.

PyTorch runs them as three or four kernels; these calls are the fastest that a user can make.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn

RELU, ADD_RELU = torch.cudnn_convolution_relu, torch.cudnn_convolution_add_relu


def fuse_relus(model: nn.Module) -> nn.Module:
    """The model with every convolution -> ReLU and convolution -> sum -> ReLU as one call; weights
    are the model's own. Depthwise convolutions stay: PyTorch's own kernels for them are faster."""
    modules = dict(model.named_modules())
    if not any(isinstance(m, nn.Conv2d) for m in modules.values()):
        return model
    graph = fx.Tracer().trace(model)
    for node in list(graph.nodes):
        if is_relu(node, modules):
            _fuse(graph, node, modules)
    fused = fx.GraphModule(model, graph)
    fused.graph.eliminate_dead_code()
    fused.recompile()
    return fused


def _fuse(graph: fx.Graph, relu: fx.Node, modules: Mapping[str, nn.Module]) -> None:
    source, added = _past_identities(relu.args[0], modules), None
    if _is_sum(source) and len(source.users) == 1:
        sides = [a for a in source.args if isinstance(a, fx.Node)]
        convolved = [a for a in sides if _convolution(_past_identities(a, modules), modules)]
        if len(sides) < 2 or not convolved:
            return
        added = sides[1 - sides.index(convolved[0])]
        source = _past_identities(convolved[0], modules)
    conv = _convolution(source, modules)
    if conv is None:
        return
    with graph.inserting_before(relu):
        weight = graph.get_attr(f"{source.target}.weight")
        bias = None if conv.bias is None else graph.get_attr(f"{source.target}.bias")
        how = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if added is None:
            call = graph.call_function(RELU, (source.args[0], weight, bias, *how))
        else:
            call = graph.call_function(ADD_RELU, (source.args[0], weight, added, 1.0, bias, *how))
    relu.replace_all_uses_with(call)
    graph.erase_node(relu)


def _past_identities(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    """Back over what folding left of a BatchNorm, as long as nobody else reads it."""
    while node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _convolution(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Conv2d | None:
    conv = modules.get(str(node.target)) if node.op == "call_module" else None
    if type(conv) is not nn.Conv2d or len(node.users) != 1 or isinstance(conv.padding, str):
        return None
    return None if 1 < conv.groups == conv.in_channels else conv


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (operator.add, torch.add)
