"""``warmup``: every problem that a model really runs, tuned before it is served."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from sparse_triton.convert.observe import evaluating, run
from sparse_triton.device import Device
from sparse_triton.executor import Seen, watching
from sparse_triton.nn import SparseModule
from sparse_triton.store import Store

if TYPE_CHECKING:
    from autotune import WarmupResult

Module = torch.nn.Module


def warmup(
    model: Module,
    example_inputs: Any,
    *,
    budget: str = "quick",
    store: Store | str | PathLike[str] | None = None,
    seconds: float | None = None,
    jobs: int | None = None,
    every_instance: bool = False,
    quiet: bool = True,
) -> WarmupResult:
    """Tune all sparse products and convolutions of one forward pass, and make them ready to run.

    example_inputs  a tensor, a tuple of positional or a dict of keyword arguments, of the shapes,
                    dtypes and device that will be served; call it under autocast to tune for that
    budget          as in ``autotune.warmup``, or "off": nothing is tuned, and what an untuned call
                    takes is made ready
    store, seconds, jobs, every_instance, quiet
                    as in ``autotune.warmup``

    Afterwards nothing is searched or compiled at these shapes, so the model can be captured in a
    CUDA graph. On a GPU all cores compile; a first call would do it on one. The winners are in the
    store: other processes find them too.

    >>> import tempfile, torch, sparse_triton as st
    >>> model = torch.nn.Sequential(st.nn.SparseLinear(torch.eye(32)))
    >>> X = torch.randn(8, 32)
    >>> len(st.warmup(model, X, store=tempfile.mkdtemp(), seconds=0.5).tuned)
    1
    """
    import autotune
    from autotune.ahead import compile_ahead

    with evaluating(model), torch.no_grad():
        with watching() as seen:
            run(model, example_inputs)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, SparseModule)}
        names = {layer.weight_id: name for name, layer in layers.items()}
        result = autotune.WarmupResult()
        for device, problems in _by_device(seen).items():
            if budget != "off":
                named = [(names.get(W.weight_id, W.weight_id), W, p) for W, p in problems]
                one = autotune.warmup_problems(
                    named, budget=budget, store=store, device=device, seconds=seconds, jobs=jobs,
                    every_instance=every_instance, quiet=quiet,
                )  # fmt: skip
                result.add(one)
            result.prepared += len(compile_ahead(problems, Device.of(device), jobs, quiet))
        run(model, example_inputs)
    return result


def _by_device(seen: Seen) -> dict[torch.device, Seen]:
    devices = defaultdict(list)
    for W, problem in seen:
        devices[W.device].append((W, problem))
    return dict(devices)
