"""demo: sparse against dense on real pruned layers; prints a table and draws it.

With a data folder the layers are MobileNet V1's pruned 1x1 convolutions; without, a small network
is trained and pruned first.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sparse_triton.choose import Choice, choose
from sparse_triton.commands import device as devices
from sparse_triton.commands import show
from sparse_triton.commands.demo_chart import Row, write_chart
from sparse_triton.commands.demo_digits import Accuracy, pruned_network
from sparse_triton.commands.demo_layers import Layer, mobilenet
from sparse_triton.commands.timing import disturbance, interleaved_us
from sparse_triton.device import Device, environment
from sparse_triton.errors import BuildError
from sparse_triton.executor import problem_of
from sparse_triton.verify import call_ratio

DATA = "SPARSE_TRITON_DATA"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, help=f"folder with values/*.npz and problems.json (default: ${DATA})"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"), help="the PNG to write")
    devices.argument(parser)


def run(args: argparse.Namespace) -> int:
    """Raises ``BuildError`` where a result is outside its error bound: no time is shown then."""
    where = devices.chosen(args)
    facts = Device.of(where)
    layers, source, accuracy = _layers(args.data, where)
    rows = [_row(layer, facts) for layer in tqdm(layers, "layers", file=sys.stderr, leave=False)]
    picture = _drawn(rows, f"{source}, float32, on {facts.name}", args.out)
    env = environment(facts)
    lines = [source, _where(env), "", *([str(accuracy), ""] if accuracy else []), *_table(rows)]
    data = {"source": source, "environment": env, **_json(rows), "picture": picture}
    data["disturbed"] = disturbance(where)
    if data["disturbed"]:
        lines.append(f"note: {data['disturbed']}")
    data["accuracy"] = None if accuracy is None else vars(accuracy)
    show(args, data, "\n".join([*lines, "", f"picture: {picture}"]))
    return 0


def _layers(data: Path | None, device: torch.device) -> tuple[list[Layer], str, Accuracy | None]:
    """The layers, what they are, and how well the network does where it is our own."""
    if data is None and os.environ.get(DATA):
        data = Path(os.environ[DATA])
    if data is not None:
        return mobilenet(data, device), "MobileNet V1, pruned 1x1 convolutions", None
    layers, accuracy = pruned_network(device)
    return layers, "a network trained on handwritten digits, pruned", accuracy


def _where(env: dict[str, str]) -> str:
    versions = [f"{name} {env[name]}" for name in ("driver", "torch", "triton") if name in env]
    return ", ".join([f"on {env['device']}", *versions])


def _row(layer: Layer, device: Device) -> Row:
    """Verify first, then time; the choice is what ``spmm`` itself takes."""
    W, call = layer.W, layer.call
    choice = _choice(layer, device)
    worst = call_ratio(layer.sparse(), W, call, choice.config)
    if worst > 1:
        raise BuildError(
            f"{choice.config} computes {layer.name} with {worst:.3g} x the error bound; "
            "run python -m sparse_triton selftest"
        )
    dense_us, sparse_us = interleaved_us([layer.dense(), layer.sparse], call.X.device)
    return Row(
        layer.name,
        *W.shape,
        layer.columns,
        W.sparsity,
        choice.config,
        f"{choice.source}: {choice.why}",
        dense_us,
        sparse_us,
        worst,
    )


def _choice(layer: Layer, device: Device) -> Choice:
    return choose(problem_of(layer.W, layer.call), layer.W.pattern_hash, device)


def _table(rows: Sequence[Row]) -> list[str]:
    """Aligned lines; reasons that several layers share are stated once below."""
    reasons = list(dict.fromkeys(row.why for row in rows))
    lines = [
        f"{'layer':16}{'M x K x N':>18}{'zeros':>8}{'dense us':>11}{'sparse us':>11}"
        f"{'speed-up':>10}{'error/bound':>13}  chosen"
    ]
    for r in rows:
        shape = f"{r.M} x {r.K} x {r.N}"
        lines.append(
            f"{r.layer:16}{shape:>18}{r.sparsity:8.1%}{r.dense_us:11.1f}{r.sparse_us:11.1f}"
            f"{r.speedup:9.2f}x{r.worst_error:13.3f}  {r.config} [{reasons.index(r.why) + 1}]"
        )
    dense, sparse, mean = _totals(rows)
    lines.append(f"{'sum':42}{dense:11.1f}{sparse:11.1f}{dense / sparse:9.2f}x")
    lines.append(f"geometric mean of the speed-ups: {mean:.2f}x")
    return lines + [f"[{i}] {reason}" for i, reason in enumerate(reasons, 1)]


def _totals(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Sums of dense and sparse µs, and the geometric mean of the speed-ups."""
    mean = math.exp(sum(math.log(r.speedup) for r in rows) / len(rows))
    return sum(r.dense_us for r in rows), sum(r.sparse_us for r in rows), mean


def _drawn(rows: Sequence[Row], title: str, path: Path) -> str:
    try:
        write_chart(rows, title, path)
    except ImportError:
        return "none, matplotlib is missing: pip install 'sparse-triton[plots]'"
    return str(path)


def _json(rows: Sequence[Row]) -> dict[str, Any]:
    dense, sparse, mean = _totals(rows)
    return {
        "layers": [{**asdict(r), "speedup": r.speedup} for r in rows],
        "sum": {"dense_us": dense, "sparse_us": sparse, "speedup": dense / sparse},
        "geometric_mean_speedup": mean,
    }
