"""Whole pruned networks end to end: ours against dense at every precision, CUDA graphs, one run.

Per network and batch: convert (``sparsify_``), tune (``warmup``), compare every contestant with the
network in float64, and only then time all of them interleaved. Errors are norm-wise, largest error
over largest output, and are compared with what float32 itself loses in the dense network.
"""

from __future__ import annotations

import copy
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import sparse_triton as st
from autotune.ahead import compile_ahead
from autotune.budget import Budget
from autotune.timing import interleaved, timer_for
from benchmarks.dense_models import (
    BASELINE,
    Forward,
    compiled_calls,
    dense_calls,
    fold_batch_norms_,
    forward,
    search_space,
)
from benchmarks.kernel_times import kernel_times
from benchmarks.networks import Network
from sparse_triton.choose import choose
from sparse_triton.device import Device
from sparse_triton.executor import Seen, watching
from sparse_triton.nn import SparseModule

Row = dict[str, Any]
OURS = "sparse"
# Error of ours, in units of the dense float32 network's own; attention in TF32 thrice takes four.
MAX_ERROR = 8.0
EAGER_CALLS = {"cuda": 30, "cpu": 5}


@dataclass(frozen=True)
class Options:
    """How to measure.

    budget    of tuning each problem; None: untuned
    compiled  seconds that torch.compile may take for each contestant of its own; None: it has none
    kernels   on a GPU also what each kernel of a pass takes, ours and dense float32
    """

    budget: Budget | None
    compiled: float | None = None
    kernels: bool = False


def measure(
    network: Network, batches: tuple[int, ...], data: Path, device: torch.device, options: Options
) -> Iterator[Row]:
    """One row for each batch, as soon as it is there."""
    dense = network.build(data).to(device)
    for batch in batches:
        yield row(network.name, dense, network.inputs(batch).to(device), options)


def row(name: str, dense: nn.Module, x: torch.Tensor, options: Options) -> Row:
    """Every contestant on one input. Raises ``AssertionError`` if ours is too far from float64."""
    device, before, clock = x.device, _allocated(x.device), _Clock()
    sparse = copy.deepcopy(dense)
    report = st.sparsify_(sparse, _config(options), example_inputs=x)
    fold_batch_norms_(sparse)  # of the layers that stay dense, as in the dense networks
    clock.note("convert")
    tuning = _tune(sparse, x, options)
    seen = _seen(sparse, x)
    ran = choices(sparse, seen, device)
    clock.note("tune")
    compile_ahead(seen, Device.of(device), quiet=False)
    clock.note("compile")
    calls = {OURS: forward(sparse, x)}
    calls[OURS]()  # kernels pack their forms of the weights
    clock.note("first pass")
    kept = _allocated(device) - before if device.type == "cuda" else state_bytes(sparse)
    weights = {OURS: kept, BASELINE: state_bytes(dense)}
    calls |= dense_calls(dense, x)
    left_out = {}
    if options.compiled is not None:
        more, left_out = compiled_calls(dense, x, options.compiled)
        calls |= more
        clock.note("torch.compile")
    errors = _errors(dense, x, calls)
    clock.note("compare")
    if not errors[OURS] <= MAX_ERROR * errors[BASELINE]:
        raise AssertionError(f"{name}: error {errors[OURS]:.1e}, dense fp32 {errors[BASELINE]:.1e}")
    timings = interleaved([timer_for(c, device) for c in calls.values()], device.type)
    names = (OURS, BASELINE) if options.kernels and device.type == "cuda" else ()
    kernels = {name: kernel_times(calls[name]) for name in names}
    clock.note("time")
    return {
        "network": name,
        "batch": len(x),
        "layers": len(report.rows),
        "sparse_layers": len(report.converted),
        "us": {name: t.to_dict() for name, t in zip(calls, timings, strict=True)},
        "eager_us": {n: _eager_us(calls[n], device) for n in (OURS, BASELINE)},
        "error": errors,
        "weight_bytes": weights,
        "file_bytes": _file_bytes(dense, sparse),
        "tuning": tuning,
        "choices": ran,
        "kernels": kernels,
        "searched": {} if options.compiled is None else search_space(),
        "left_out": left_out,
        "seconds": clock.seconds,
    }


class _Clock:
    """How long each part of a measurement took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def note(self, part: str) -> None:
        before, self.last = self.last, time.monotonic()
        self.seconds[part] = round(self.last - before, 1)
        print(f"{part}: {self.seconds[part]} s", file=sys.stderr, flush=True)


def _config(options: Options) -> st.SparsifyConfig:
    """Where tuning follows, it decides: every layer that is sparse, depthwise convolutions among
    them, is converted, and dense is a candidate."""
    if options.budget is None:
        return st.SparsifyConfig()
    return st.SparsifyConfig(min_gain=0.0, between_groups=True)


def _tune(model: nn.Module, x: torch.Tensor, options: Options) -> dict[str, Any]:
    if options.budget is None:
        return {"budget": None}
    started = time.monotonic()
    result = st.warmup(model, x, budget=options.budget)
    return {
        "budget": options.budget.name,
        "trials": options.budget.trials,
        "seconds": round(time.monotonic() - started, 1),
        "problems": len(result.tuned),
        "compiled": result.compiled,
    }


def _errors(dense: nn.Module, x: torch.Tensor, calls: dict[str, Forward]) -> dict[str, float]:
    """Largest error over largest output, against the network in float64."""
    with torch.inference_mode():
        truth = copy.deepcopy(dense).double()(x.double())
        scale = truth.abs().max()
        return {
            n: float((call().double() - truth).abs().max() / scale) for n, call in calls.items()
        }


def _seen(model: nn.Module, x: torch.Tensor) -> Seen:
    """Every product and convolution of one pass."""
    with torch.inference_mode(), watching() as seen:
        model(x)
    return seen


def choices(model: nn.Module, seen: Seen, device: torch.device) -> list[Row]:
    """What each sparse layer runs, and its times where it was tuned."""
    facts = Device.of(device)
    names = {m.weight_id: n for n, m in model.named_modules() if isinstance(m, SparseModule)}
    found = []
    for W, problem in seen:
        choice = choose(problem, W.pattern_hash, facts)
        found.append({
            "layer": names.get(W.weight_id, ""), "problem": str(problem),
            "config": str(choice.config), "source": choice.source,
            "us": choice.us, "dense_us": choice.dense_us,
        })  # fmt: skip
    return found


def _eager_us(call: Forward, device: torch.device) -> float:
    """Median of one call and its end, without a graph: what the host adds shows."""
    drain = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    samples = []
    for _ in range(EAGER_CALLS[device.type]):
        drain()
        start = time.perf_counter()
        call()
        drain()
        samples.append((time.perf_counter() - start) * 1e6)
    return round(statistics.median(samples), 1)


def _allocated(device: torch.device) -> int:
    """Bytes of live tensors on a GPU, workspaces of libraries aside: a network's weights in every
    form that kernels keep of them."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated(device)


def state_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def _file_bytes(dense: nn.Module, sparse: nn.Module) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.safetensors"
        save_file({n: t.contiguous() for n, t in dense.state_dict().items()}, path)
        return {
            OURS: st.save(sparse, Path(folder) / "sparse.safetensors").bytes,
            BASELINE: path.stat().st_size,
        }
