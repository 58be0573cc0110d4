"""One module's own forward as a graph: its children are opaque calls, or all down to its layers.

Tracing module by module, not through the whole model, keeps hooks, names and the module tree as
they are, and a model needs no traceable root: each block that can be traced is.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from sparse_triton.convert.origin import Absorbed
from sparse_triton.nn import SparseModule

Module = torch.nn.Module
_tracing = threading.Lock()
_ASK_OF_ALL = ("torch.fx", "torch._", "torch.overrides", "torch.utils", "torch.nn.parameter")


class _Shallow(fx.Tracer):
    """Every child is a leaf."""

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True


class _Deep(fx.Tracer):
    """Leaves are the layers: PyTorch's own, and sparse ones."""

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, SparseModule | Absorbed)
        return ours or super().is_leaf_module(m, module_qualified_name)


def shallow_graph(module: Module) -> fx.Graph | str:
    """The graph of ``module.forward`` as it is in eval mode, or why there is none."""
    return _graph(module, _Shallow())


def deep_graph(module: Module) -> fx.Graph | str:
    """The same with the forwards of the modules below written out."""
    return _graph(module, _Deep())


def _graph(module: Module, tracer: fx.Tracer) -> fx.Graph | str:
    """A graph stands for the forward only where it takes the same path for all inputs. So a forward
    with optional arguments (None or not decides a path), with branches on values or their types, or
    with tensors made inside is refused.
    """
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    ):
        return "its forward has optional arguments"
    with _unchanged(module), _typeless():
        try:
            graph = tracer.trace(module)
        except Exception as e:  # the module's own code runs on proxies: anything may come
            return (
                f"its forward cannot be traced: {type(e).__name__}: {str(e).partition(chr(10))[0]}"
            )
    if any(
        n.op == "get_attr" and str(n.target).startswith("_tensor_constant") for n in graph.nodes
    ):
        return "its forward makes tensors"
    return graph


@contextlib.contextmanager
def _unchanged(module: Module) -> Iterator[None]:
    """Whatever tracing writes to the module's attributes is taken back."""
    before = dict(module.__dict__)
    tables = {name: dict(before[name]) for name in ("_parameters", "_buffers", "_modules")}
    try:
        yield
    finally:
        for name, table in tables.items():
            before[name].clear()
            before[name].update(table)
        module.__dict__.clear()
        module.__dict__.update(before)


@contextlib.contextmanager
def _typeless() -> Iterator[None]:
    """``isinstance`` of a traced value raises: a proxy is no tensor, tuple or whatever it stands
    for, so the answer would silently decide a path. PyTorch's own questions are answered."""

    def asked(obj: Any, classes: Any) -> bool:
        if issubclass(type(obj), fx.Proxy):
            asker = sys._getframe(1).f_globals.get("__name__", "")
            if not asker.startswith(_ASK_OF_ALL):
                raise fx.proxy.TraceError("the type of a value decides a path")
        return answer(obj, classes)

    with _tracing:
        answer, builtins.isinstance = builtins.isinstance, asked
        try:
            yield
        finally:
            builtins.isinstance = answer
