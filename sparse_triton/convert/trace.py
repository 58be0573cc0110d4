"""One module's own forward as a graph: its children are opaque calls.

Tracing module by module, not through the whole model, keeps hooks, names and the module tree as
they are, and a model needs no traceable root: each block that can be traced is.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

import torch
from torch import fx

Module = torch.nn.Module


class _Shallow(fx.Tracer):
    """Every child is a leaf."""

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True


def shallow_graph(module: Module) -> fx.Graph | str:
    """The graph of ``module.forward`` as it is in eval mode, or why there is none.

    A graph stands for the forward only where it takes the same path for all inputs. So a forward
    with optional arguments (None or not decides a path), with branches on values, or with tensors
    made inside is refused.
    """
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    ):
        return "its forward has optional arguments"
    with _unchanged(module):
        try:
            graph = _Shallow().trace(module)
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
