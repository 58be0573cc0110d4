"""A module's forward replaced by a graph's code: its class becomes a subclass with that forward.

So ``isinstance``, replicas, ``deepcopy``, pickling and ``torch.compile`` see an ordinary module.
"""

from __future__ import annotations

import functools
import linecache
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from sparse_triton.convert.attention import replace_attention
from sparse_triton.convert.patterns import Fusion

Module = torch.nn.Module


@dataclass(frozen=True)
class Code:
    """Python source of a forward and what its global names stand for; modules by their names."""

    source: str
    names: tuple[tuple[str, Any], ...]

    def namespace(self) -> dict[str, Any]:
        import importlib

        return {
            name: importlib.import_module(value.name) if isinstance(value, _Imported) else value
            for name, value in self.names
        }


@dataclass(frozen=True)
class _Imported:
    name: str


def fused_code(graph: fx.Graph, fusions: list[Fusion]) -> Code:
    """The graph's code with each fusion's nodes as one call of its layer, and our attention."""
    stands_for: dict[fx.Node, fx.Node] = {}
    for fusion in fusions:
        layer, last = fusion.nodes[0], fusion.nodes[-1]
        if fusion.residual is not None:
            layer.args = (*layer.args, stands_for.get(fusion.residual, fusion.residual))
        stands_for[last] = layer
        last.prepend(layer)
        last.replace_all_uses_with(layer)
        for node in reversed(fusion.nodes[1:]):
            graph.erase_node(node)
    replace_attention(graph)
    graph.lint()
    code = graph.python_code("self")
    names = tuple(
        (name, _Imported(value.__name__) if isinstance(value, types.ModuleType) else value)
        for name, value in code.globals.items()
    )
    return Code(code.src, names)


def why_not_rewritten(module: Module) -> str:
    """Why a module's class cannot be replaced by a subclass; "" where it can."""
    cls = unfused(type(module))
    own = {name for c in cls.__mro__[:-1] for name in vars(c)}
    if own & {"__reduce__", "__reduce_ex__"}:
        return "its class has its own way of being copied"
    if "__init_subclass__" in own:
        return "its class takes note of subclasses"
    if cls.__module__.startswith("torch.jit") or isinstance(module, torch.jit.ScriptModule):
        return "it is a compiled script"
    return ""


def rewrite(module: Module, code: Code) -> None:
    module.__class__ = fused_class(unfused(type(module)), code)


def restore(module: Module) -> bool:
    """Give a rewritten module its own class back; False for any other module."""
    base = unfused(type(module))
    if base is type(module):
        return False
    module.__class__ = base
    return True


def unfused(cls: type) -> type:
    """The class that a rewritten one was made of; any other itself."""
    base: type = getattr(cls, "fused_from", cls)
    return base


@functools.cache
def fused_class(base: type, code: Code) -> type:
    """The subclass of ``base`` whose forward is ``code``; the same for the same arguments."""
    file = f"<fused {base.__qualname__} {len(linecache.cache)}>"
    linecache.cache[file] = (len(code.source), None, code.source.splitlines(True), file)
    namespace = code.namespace()
    exec(compile(code.source, file, "exec"), namespace)
    members = {
        "forward": namespace["forward"],
        "fused_from": base,
        "fused_code": code,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
    }
    return type(base)(base.__name__, (base,), members)


def _reduce(self: Any, protocol: int) -> tuple[Any, ...]:
    """Copied and pickled as base class and source: the class itself has no name to import."""
    _, _, *rest = tuple(object.__reduce_ex__(self, protocol))
    cls = type(self)
    return (_revive, (cls.fused_from, cls.fused_code), *rest)


def _revive(base: type, code: Code) -> Any:
    cls: Any = fused_class(base, code)
    return cls.__new__(cls)
