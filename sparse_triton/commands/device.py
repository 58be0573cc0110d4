"""Which device a command runs on."""

from __future__ import annotations

import argparse

import torch

from sparse_triton.errors import DeviceError


def argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="cpu|cuda", help="default: the GPU if there is one")


def chosen(args: argparse.Namespace) -> torch.device:
    """``--device``, else the current GPU, else the CPU. Raises ``DeviceError`` for another kind."""
    name = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise DeviceError(f"--device must be cpu, cuda or cuda:<index>, got {name!r}") from e
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"--device must be cpu, cuda or cuda:<index>, got {name!r}")
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= gpus:
        raise DeviceError(f"--device {name} is not there, PyTorch sees {gpus} GPU(s); use cpu")
    return torch.empty(0, device=device).device
