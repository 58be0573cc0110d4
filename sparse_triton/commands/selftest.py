"""selftest: every kernel family that runs here, against float64 and the derived error bound."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

from sparse_triton.call import Call
from sparse_triton.commands import device as devices
from sparse_triton.commands import info, show
from sparse_triton.commands.selftest_cases import cases, configs
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, environment
from sparse_triton.errors import SparseTritonError
from sparse_triton.executor import prepare
from sparse_triton.kernels import FAMILIES
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
    wanted = [f for f in FAMILIES.values() if args.family in (None, f.name)]
    skipped = {f.name: reason for f in wanted if (reason := info.unusable(f, facts))}
    checks = [(f, *c) for f in wanted if f.name not in skipped for c in cases(where)]
    tallies = {f.name: Tally() for f in wanted if f.name not in skipped}
    for family, W, call, words in tqdm(checks, "selftest", file=sys.stderr, leave=False):
        for config in configs(family, W, call, facts):
            _check(tallies[family.name], W, call, config, words)
    data = {
        "environment": environment(facts),
        "families": {name: vars(t) for name, t in tallies.items()},
        "skipped": skipped,
    }
    show(args, data, _text(facts, tallies, skipped))
    return 0 if _passed(tallies) else 1


def _check(tally: Tally, W: SparseMatrix, call: Call, config: KernelConfig, words: str) -> None:
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
    lines = [device.name, f"{'family':10}{'checks':>8}{'failures':>10}{'worst error / bound':>22}"]
    for name, t in tallies.items():
        lines.append(f"{name:10}{t.checks:8}{len(t.failures):10}{t.worst:22.3f}")
    lines += [f"{name:10} skipped: {reason}" for name, reason in skipped.items()]
    lines += [f"FAILED {name}: {f}" for name, t in tallies.items() for f in t.failures]
    return "\n".join([*lines, "passed" if _passed(tallies) else "FAILED"])
