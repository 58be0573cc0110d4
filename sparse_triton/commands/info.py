"""info: versions, the device, the cache folders, and which kernel families are usable here."""

from __future__ import annotations

import argparse
import importlib.util
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sparse_triton.commands import device as devices
from sparse_triton.commands import show
from sparse_triton.device import Device, environment, triton_version
from sparse_triton.kernels import CONV_FAMILIES, FAMILIES
from sparse_triton.kernels.family import Family
from sparse_triton.plan import why_not
from sparse_triton.problem import ConvProblem, ProblemT, SpmmProblem
from sparse_triton.store import cache_dir

# Every family takes a problem like this one where it can run at all.
TYPICAL = SpmmProblem(M=64, K=64, N=64, nnz=400)
TYPICAL_CONV = ConvProblem(1, C=64, H=14, W=14, M=64, R=3, S=3, nnz=3600, padding=(1, 1, 1, 1))


def arguments(parser: argparse.ArgumentParser) -> None:
    devices.argument(parser)


def run(args: argparse.Namespace) -> int:
    where = devices.chosen(args)
    facts = Device.of(where)
    data: dict[str, Any] = {
        "versions": environment(facts),
        "device": asdict(facts),
        "gpus": torch.cuda.device_count(),
        "cache": {"configurations": str(cache_dir()), "compiled kernels": str(_triton_cache())},
        "families": {name: unusable(f, facts, TYPICAL) for name, f in FAMILIES.items()},
        "convolution families": {
            name: unusable(f, facts, TYPICAL_CONV) for name, f in CONV_FAMILIES.items()
        },
    }
    lines = [
        *_section("versions", data["versions"]),
        *_section("device", data["device"]),
        *_section("cache folders", data["cache"]),
        *_section("families", {n: r or "usable" for n, r in data["families"].items()}),
        *_section(
            "convolution families",
            {n: r or "usable" for n, r in data["convolution families"].items()},
        ),
    ]
    show(args, data, "\n".join(lines))
    return 0


def unusable(family: Family[ProblemT], device: Device, typical: ProblemT) -> str | None:
    """Why the family cannot run on the device, or None: it can."""
    if family.device_kind == "cuda" and triton_version() == "none":
        return "Triton is not installed; it exists for Linux"
    if family.device_kind == "cpu" and importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    if family.device_kind not in (device.kind, "any"):
        return f"runs on {family.device_kind}, the device is {device.kind}"
    return why_not(typical, family.default_config(typical, device), device)


def _triton_cache() -> Path:
    named = os.environ.get("TRITON_CACHE_DIR")
    return Path(named) if named else Path.home() / ".triton" / "cache"


def _section(title: str, values: dict[str, Any]) -> list[str]:
    width = max(len(str(name)) for name in values)
    return [title, *(f"  {name:{width}}  {value}" for name, value in values.items())]
