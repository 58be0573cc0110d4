"""``python -m benchmarks models``: its arguments, and what becomes of the rows."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from autotune.budget import as_budget
from benchmarks import kernel_times, models_report, report
from benchmarks.models import Options, Row, measure
from benchmarks.networks import NETWORKS
from benchmarks.problems import data_folder
from sparse_triton.device import Device, environment


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="folder of problems.json (default: $SPARSE_TRITON_DATA)")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="some of: %(default)s")
    parser.add_argument("--batch", help="batch sizes (default: each network's own)")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=here)
    parser.add_argument("--budget", default="quick", choices=("off", "quick", "full"))
    parser.add_argument("--trials", type=int, help="measured configurations a problem, at most")
    parser.add_argument("--seconds", type=float, help="of tuning each problem, at most")
    parser.add_argument(
        "--compile", type=float, nargs="?", const=600.0, metavar="SECONDS",
        help="torch.compile too, at most so long for each precision (default: %(const)g)",
    )  # fmt: skip
    parser.add_argument("--kernels", action="store_true", help="what each kernel takes, on a GPU")
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the results there; what it holds of other networks on this machine stays",
    )  # fmt: skip
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the results there")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    """Results are written after every row: an interrupted run keeps what it has."""
    device, data = torch.device(args.device), data_folder(args.data)
    facts = environment(Device.of(device))
    rows = report.known_rows(args.json, facts)
    for name in args.networks.split(","):
        network = NETWORKS[name]
        batches = tuple(map(int, args.batch.split(","))) if args.batch else network.batches
        for row in measure(network, batches, data, device, _options(args)):
            rows = _with(rows, row)
            print(models_report.latencies([row]), models_report.sizes([row]), "", sep="\n")
            for contestant, kernels in row["kernels"].items():
                print(contestant, kernel_times.table(kernels), "", sep="\n")
            for contestant, why in row["left_out"].items():
                print(f"{contestant}: {why}")
            print(f"seconds: {row['seconds']}\n", flush=True)
            if args.json:
                result = {"benchmark": "models", "environment": facts, "rows": rows}
                report.write(args.json, result)
    print(models_report.latencies(rows), models_report.sizes(rows), sep="\n\n")
    if args.png:
        models_report.plot(rows, facts, args.png)


def _options(args: argparse.Namespace) -> Options:
    budget = None if args.budget == "off" else as_budget(args.budget, seconds=args.seconds)
    if budget is not None and args.trials is not None:
        budget = replace(budget, trials=args.trials)
    return Options(budget, args.compile, args.kernels)


def _with(rows: list[Row], row: Row) -> list[Row]:
    """The row in its network's place."""
    others = [r for r in rows if (r["network"], r["batch"]) != (row["network"], row["batch"])]
    order = [*NETWORKS, row["network"]]
    return sorted([*others, row], key=lambda r: (order.index(r["network"]), r["batch"]))
