"""The command line: a command is a module with ``arguments(parser)`` and ``run(args) -> int``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sparse_triton.errors import SparseTritonError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: its own; 2 for a mistake in what it was asked."""
    from sparse_triton.commands import advise, demo, explain, info, selftest

    parser = argparse.ArgumentParser(
        prog="python -m sparse_triton", description="Inference with pruned neural networks."
    )
    commands = parser.add_subparsers(required=True, metavar="{info,demo,explain,advise,selftest}")
    for module in (info, demo, explain, advise, selftest):
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").partition("\n")[0].partition(": ")[2]
        one = commands.add_parser(name, help=summary, description=summary)
        one.add_argument("--json", action="store_true", help="print JSON instead of text")
        module.arguments(one)
        one.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except (SparseTritonError, OSError) as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 2


def show(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Print the one or the other, as asked."""
    print(json.dumps(data, indent=1) if args.json else text)
