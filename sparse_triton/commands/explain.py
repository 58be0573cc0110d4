"""explain: which kernel runs a weight at N columns, who chose it, and why not the others."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sparse_triton.commands import device as devices
from sparse_triton.commands import show
from sparse_triton.errors import FileFormatError
from sparse_triton.explain import explain
from sparse_triton.matrix import SparseMatrix

DTYPES = ("float32", "float16", "bfloat16")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weight", type=Path, help=".smtx pattern, or .npz with values")
    parser.add_argument("N", type=int, help="columns of X: output pixels or tokens")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of X (default float32)")
    parser.add_argument(
        "--token-major", action="store_true", help="X [N, K], as st.linear has it, not [K, N]"
    )
    devices.argument(parser)


def run(args: argparse.Namespace) -> int:
    W = read_weight(args.weight).to(devices.chosen(args))
    K = W.shape[1]
    shape = (args.N, K) if args.token_major else (K, args.N)
    X = torch.empty(shape, dtype=getattr(torch, args.dtype), device=W.device)
    found = explain(W, X, token_major=args.token_major)
    show(args, {"weight": str(args.weight), **found.to_dict()}, f"{args.weight}\n{found}")
    return 0


def read_weight(path: Path) -> SparseMatrix:
    """A ``.smtx`` or ``.npz`` file. Raises ``FileFormatError`` for another suffix or content."""
    match path.suffix:
        case ".smtx":
            return SparseMatrix.from_smtx(path)
        case ".npz":
            return SparseMatrix.from_npz(path)
    raise FileFormatError(f"a weight file ends in .smtx or .npz, got {path.name!r}")
