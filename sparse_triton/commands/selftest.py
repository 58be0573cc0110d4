"""selftest: every kernel family that runs here, against float64 and the derived error bound."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from sparse_triton.commands import device as devices
from sparse_triton.commands import info, show
from sparse_triton.commands.selftest_cases import cases, configs
from sparse_triton.commands.selftest_conv import conv_cases
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, environment
from sparse_triton.errors import SparseTritonError
from sparse_triton.executor import AnyCall, prepare
from sparse_triton.kernels import CONV_FAMILIES, FAMILIES
from sparse_triton.kernels.family import Family
from sparse_triton.matrix import SparseMatrix
from sparse_triton.verify import call_ratio


@dataclass
class Tally:
    """What became of one family's checks; ``worst`` is the largest error over its bound."""

    checks: int = 0
    worst: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.checks > 0 and not self.failures


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", choices=sorted(FAMILIES), help="only this one")
    devices.argument(parser)


def run(args: argparse.Namespace) -> int:
    where = devices.chosen(args)
    facts = Device.of(where)
    skipped: dict[str, str] = {}
    tallies: dict[str, Tally] = {}
    checks: list[tuple[str, Family[Any], SparseMatrix, AnyCall, str]] = []
    for name, family, reason, found in _wanted(args.family, facts):
        if reason is not None:
            skipped[name] = reason
            continue
        tallies[name] = Tally()
        checks += [(name, family, *case) for case in found(where)]
    with _without_tf32():
        for name, family, W, call, words in tqdm(checks, "selftest", file=sys.stderr, leave=False):
            for config in configs(family, W, call, facts):
                _check(tallies[name], W, call, config, words)
    data = {
        "environment": environment(facts),
        "families": {name: vars(t) for name, t in tallies.items()},
        "skipped": skipped,
    }
    show(args, data, _text(facts, tallies, skipped))
    return 0 if _passed(tallies) else 1


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """PyTorch lets cuDNN round float32 convolutions to TF32, the bound does not."""
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    yield
    convolution.fp32_precision = before


def _wanted(
    only: str | None, device: Device
) -> Iterator[tuple[str, Family[Any], str | None, Callable[..., Any]]]:
    """(name, family, why it cannot run, its cases): products first, then convolutions."""
    for name, family in FAMILIES.items():
        if only in (None, name):
            yield name, family, info.unusable(family, device, info.TYPICAL), cases
    for name, conv in CONV_FAMILIES.items():
        if only in (None, name):
            reason = info.unusable(conv, device, info.TYPICAL_CONV)
            yield f"{name} conv", conv, reason, conv_cases


def _check(tally: Tally, W: SparseMatrix, call: AnyCall, config: KernelConfig, words: str) -> None:
    """One launch into an output full of NaN, so that an element left out is seen."""
    tally.checks += 1
    try:
        launch = prepare(W, call, config)
        Y = launch(call, torch.full_like(launch(call, None), float("nan")))
        ratio = call_ratio(Y, W, call, config)
    except (SparseTritonError, RuntimeError) as e:
        tally.failures.append(f"{config}, {words}: {type(e).__name__}: {e}")
        return
    tally.worst = max(tally.worst, ratio)
    if ratio > 1.0:
        tally.failures.append(f"{config}, {words}: error is {ratio:.3g} x the bound")


def _passed(tallies: dict[str, Tally]) -> bool:
    """True where something was checked, and nothing failed."""
    return bool(tallies) and all(t.passed for t in tallies.values())


def _text(device: Device, tallies: dict[str, Tally], skipped: dict[str, str]) -> str:
    lines = [device.name, f"{'family':14}{'checks':>8}{'failures':>10}{'worst error / bound':>22}"]
    for name, t in tallies.items():
        lines.append(f"{name:14}{t.checks:8}{len(t.failures):10}{t.worst:22.3f}")
    lines += [f"{name:14} skipped: {reason}" for name, reason in skipped.items()]
    lines += [f"FAILED {name}: {f}" for name, t in tallies.items() for f in t.failures]
    return "\n".join([*lines, "passed" if _passed(tallies) else "FAILED"])
