"""``python -m benchmarks paper``: measure every part that is asked for, save and print each."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.paper import PARTS, Setting
from benchmarks.paper.write import load, picture, save, table
from benchmarks.problems import data_folder
from sparse_triton.device import environment
from sparse_triton.errors import DeviceError, InputError


def arguments(parser: argparse.ArgumentParser, results: Path) -> None:
    parser.add_argument("--data", help="folder of problems.json (default: $SPARSE_TRITON_DATA)")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=results / "paper", help="folder to write")
    parser.add_argument(
        "--tune", choices=("quick", "full"), help="tune SparseRT's products first (default: no)"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="tables and pictures of saved results, without a GPU"
    )
    parser.add_argument(
        "--saved", type=Path, metavar="FOLDER",
        help="make what can be made from spmm.json, conv.json and convpool.json there; no GPU",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    """Raises ``DeviceError`` without a GPU, ``InputError`` for a part it does not know."""
    names = args.only.split(",") if args.only else list(PARTS)
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise InputError(f"parts are {', '.join(PARTS)}; got {', '.join(unknown)}")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.redraw:
        _redraw(names, args.out)
    elif args.saved:
        _from_saved(names, args.out, args.data, args.saved)
    else:
        _measure(names, args.out, args.data, args.tune)


def _redraw(names: list[str], out: Path) -> None:
    for name in names:
        result = load(PARTS[name], out)
        if result is not None:
            picture(PARTS[name], result["rows"], result["environment"], out)
            print(f"\n{PARTS[name].title}\n\n{table(PARTS[name], result['rows'])}")


def _from_saved(names: list[str], out: Path, data: str | None, saved: Path) -> None:
    """Each part in the environment that its rows were measured in."""
    setting = Setting(data_folder(data), torch.device("cpu"), saved=saved)
    for name in names:
        source = PARTS[name].saved
        if source is not None:
            facts = json.loads((saved / f"{source}.json").read_text())["environment"]
            _part(name, setting, facts, out)


def _measure(names: list[str], out: Path, data: str | None, budget: str | None) -> None:
    if not torch.cuda.is_available():
        raise DeviceError(
            "the literature's results are reproduced on a GPU, PyTorch sees none; --redraw shows "
            "the saved ones"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    setting = Setting(data_folder(data), device, budget)
    facts = environment(setting.facts)
    failed = [name for name in names if not _part(name, setting, facts, out)]
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _part(name: str, setting: Setting, facts: dict[str, str], out: Path) -> bool:
    """Whether it was measured: one that cannot be here, or is wrong, does not stop the others."""
    part, started = PARTS[name], time.monotonic()
    try:
        rows = part.measure(setting)
    except (RuntimeError, AssertionError, InputError) as e:
        print(f"\n{part.title}: not measured: {e}", flush=True)
        return False
    save(part, rows, facts, out)
    seconds = time.monotonic() - started
    print(f"\n{part.title} ({seconds:.0f} s)\n\n{table(part, rows)}", flush=True)
    return True
