"""PyTorch's attention in a rewritten forward, replaced by the one that takes either format."""

from __future__ import annotations

from torch import fx
from torch.nn import functional

from sparse_triton.nn.attention import attention

_LIBRARY = functional.scaled_dot_product_attention
_OPERANDS = ("query", "key", "value")
_NEUTRAL = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "enable_gqa": False}


def replace_attention(graph: fx.Graph) -> None:
    """Every plain call of ``scaled_dot_product_attention``: without mask, dropout or grouping."""
    for node in graph.nodes:
        if node.op != "call_function" or node.target is not _LIBRARY or len(node.args) > 3:
            continue
        named = dict(node.kwargs)
        operands = [*node.args, *(named.pop(n) for n in _OPERANDS[len(node.args) :] if n in named)]
        scale = named.pop("scale", None)
        if len(operands) == 3 and all(named[n] == _NEUTRAL.get(n, n) for n in named):
            node.target, node.args, node.kwargs = attention, tuple(operands), {"scale": scale}
