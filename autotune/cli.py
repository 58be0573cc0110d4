"""``python -m autotune {warmup,show,report,export,import,prune}``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune import interrupt, table
from autotune.budget import BUDGETS, SAMPLERS
from autotune.weights_in import MIN_SPARSITY
from sparse_triton.errors import SparseTritonError
from sparse_triton.store import Store, as_store

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error that is explained, 2 usage, 130 interrupted."""
    args = parser().parse_args(argv)
    try:
        with interrupt.noticed():
            args.run(args)
    except KeyboardInterrupt:
        print(
            "\ninterrupted; every finished trial is stored: the same command goes on from here",
            file=sys.stderr,
        )
        return INTERRUPTED
    except SparseTritonError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # e.g. `| head`
        sys.stderr.close()
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m autotune", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    _add_warmup(_command(commands, "warmup", warmup, "tune every sparse weight of a model"))
    show = _command(commands, "show", show_entries, "list what is stored")
    _add_filters(show)
    report = _command(commands, "report", report_entries, "plots and one page for each study")
    _add_filters(report)
    report.add_argument("--out", type=Path, default=Path("out/report"), help="folder to write")
    export = _command(commands, "export", export_entries, "an archive for another machine")
    export.add_argument("archive", type=Path)
    _add_filters(export)
    export.add_argument("--with-kernels", action="store_true", help="add the winners' binaries")
    export.add_argument(
        "--recording", action="store_true", help="write timings for the replay benchmark instead"
    )
    bring = _command(commands, "import", import_entries, "merge an archive into the store")
    bring.add_argument("archive", type=Path)
    bring.add_argument("--overwrite", action="store_true", help="even where ours is better")
    bring.add_argument(
        "--with-kernels", action="store_true", help="install its binaries: code, so trust it first"
    )
    prune = _command(commands, "prune", prune_entries, "remove debris, and entries if asked")
    _add_filters(prune)
    prune.add_argument("--stale", action="store_true", help="entries of other versions")
    prune.add_argument("--older-than", type=float, metavar="DAYS")
    prune.add_argument("--everything", action="store_true", help="all entries the filters leave")
    prune.add_argument("--dry-run", action="store_true")
    return top


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], words: str
) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    p.set_defaults(run=run)
    p.add_argument("--store", type=Path, help="default: $SPARSE_TRITON_CACHE_DIR or user cache")
    p.add_argument("--json", action="store_true", help="machine-readable output")
    return p


def _add_filters(p: argparse.ArgumentParser) -> None:
    p.add_argument("--pattern", default="", help="pattern hashes that begin like this")
    p.add_argument("--device", default="", help="device names that contain this")


def _add_warmup(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", help=".safetensors, .pt, folder of .smtx/.npz, package.module:function")
    p.add_argument("--n", type=_numbers, default=(), metavar="1,256", help="columns of X")
    p.add_argument("--n-map", type=Path, metavar="FILE", help="lines 'name N [N ...]'")
    p.add_argument("--budget", choices=tuple(BUDGETS), default="quick")
    p.add_argument("--sampler", choices=SAMPLERS)
    p.add_argument("--seconds", type=float, help="wall time of one study")
    p.add_argument("--device", help="cuda, cuda:1 or cpu; default: a GPU if there is one")
    p.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of X; default W's")
    p.add_argument("--min-sparsity", type=float, default=MIN_SPARSITY)
    p.add_argument("--every-instance", action="store_true", help="search for siblings too")
    p.add_argument("--jobs", type=int, help="compile processes; default: all cores but one")
    p.add_argument("--compile-timeout", type=float, metavar="SECONDS", help="for one config")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dry-run", action="store_true", help="say what would be tuned")


def _numbers(text: str) -> tuple[int, ...]:
    out = tuple(int(n) for n in text.split(","))
    if min(out) < 1:
        raise argparse.ArgumentTypeError(f"columns must be positive, got {text}")
    return out


def _print(args: argparse.Namespace, value: Any, text: str) -> None:
    print(json.dumps(value, indent=1) if args.json else text)


def _store(args: argparse.Namespace) -> Store:
    return as_store(args.store)


# -- commands --------------------------------------------------------------------------------------


def warmup(args: argparse.Namespace) -> None:
    from autotune import tune_model as w
    from autotune.weights_in import read_n_map

    n_map = read_n_map(args.n_map) if args.n_map else {}
    if args.dry_run:
        leaders = w.planned(args.model, args.n, n_map, args.min_sparsity, args.every_instance)
        rows = table.plan_rows(leaders, BUDGETS[args.budget].trials, w.SIBLING_TRIALS)
        _print(args, rows, table.table(rows, table.PLAN_COLUMNS) if rows else "nothing to tune")
        return
    result = w.warmup(
        args.model,
        args.n,
        n_map=n_map,
        budget=args.budget,
        store=_store(args),
        device=args.device,
        min_sparsity=args.min_sparsity,
        every_instance=args.every_instance,
        x_dtype=args.dtype,
        sampler=args.sampler,
        seconds=args.seconds,
        jobs=args.jobs,
        compile_timeout_s=args.compile_timeout,
        seed=args.seed,
        quiet=args.json,
    )
    _print(args, table.warmup_json(result), table.warmup_text(result))


def show_entries(args: argparse.Namespace) -> None:
    from autotune.archive import select

    store = _store(args)
    rows = [table.show_row(e) for e in select(store, args.pattern, args.device)]
    lines = []
    for device in sorted({r["device"] for r in rows}):
        mine = [r for r in rows if r["device"] == device]
        lines += [device, table.table(mine, table.SHOW_COLUMNS), ""]
    _print(args, rows, "\n".join(lines) or f"nothing is stored in {store.root}")


def report_entries(args: argparse.Namespace) -> None:
    from autotune.archive import select
    from autotune.report import write_report

    pages = write_report(select(_store(args), args.pattern, args.device), args.out)
    _print(args, [str(p) for p in pages], "\n".join(map(str, pages)) or "nothing to report")


def export_entries(args: argparse.Namespace) -> None:
    from autotune.archive import export_archive, select
    from autotune.replay import record

    entries = select(_store(args), args.pattern, args.device)
    if args.recording:
        count = record(entries, args.archive)
        _print(args, {"studies": count}, f"{count} studies recorded in {args.archive}")
        return
    summary = export_archive(entries, args.archive, args.with_kernels)
    _print(args, summary, ", ".join(f"{n} {what}" for what, n in summary.items()))


def import_entries(args: argparse.Namespace) -> None:
    from autotune.archive import import_archive

    summary = import_archive(args.archive, _store(args), args.overwrite, args.with_kernels)
    _print(args, summary, ", ".join(f"{n} {what}" for what, n in summary.items()))


def prune_entries(args: argparse.Namespace) -> None:
    from autotune.prune import prune

    removed = prune(
        _store(args),
        pattern=args.pattern,
        device=args.device,
        stale_ones=args.stale,
        older_than_days=args.older_than,
        everything=args.everything,
        dry_run=args.dry_run,
    )
    words = "would be removed" if args.dry_run else "removed"
    _print(args, [str(p) for p in removed], f"{len(removed)} files {words}")
