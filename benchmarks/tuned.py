"""Tuned against heuristic on the paper's problems: ``python -m benchmarks.tuned --data DIR``.

Each problem is tuned (or resumed: the store remembers), then winner, heuristic and dense are
measured interleaved in one run. The heuristic is ``plan.default_config``: what a call takes when
nothing is stored.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

import autotune
from autotune.bench import LiveBench
from autotune.space import DENSE
from autotune.table import table
from benchmarks.problems import PaperProblem, data_folder, paper_problems
from sparse_triton.device import Device, environment
from sparse_triton.plan import default_config

COLUMNS = (
    "problem", "sparsity", "winner", "us", "heuristic us", "dense us",
    "x heuristic", "x dense", "s",
)  # fmt: skip


def measure(problem: PaperProblem, args: argparse.Namespace) -> dict[str, Any]:
    """One row: microseconds of the three, and the seconds tuning took."""
    W, device = problem.load(), torch.device(args.device)
    started = time.monotonic()
    result = autotune.tune(
        W, problem.N, args.budget, args.store, device=device, jobs=args.jobs, seconds=args.seconds
    )
    seconds = time.monotonic() - started
    key = result.entry.key
    heuristic = default_config(key.problem, Device.of(device))
    bench = LiveBench(W, key.problem, device)
    winner_us, heuristic_us, dense_us = (
        t.us for t in bench.compare([result.config, heuristic, DENSE])
    )
    return {
        "problem": problem.name,
        "sparsity": problem.sparsity,
        "winner": str(result.config),
        "heuristic": str(heuristic),
        "us": round(winner_us, 3),
        "heuristic us": round(heuristic_us, 3),
        "dense us": round(dense_us, 3),
        "x heuristic": round(heuristic_us / winner_us, 3),
        "x dense": round(dense_us / winner_us, 3),
        "s": round(seconds, 1),
        "outcomes": dict(result.entry.outcomes()),
    }


def mean(rows: list[dict[str, Any]], column: str) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(r[column]) for r in rows) / len(rows))


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.tuned", description=__doc__)
    p.add_argument("--data", help="folder of problems.json (default: $SPARSE_TRITON_DATA)")
    p.add_argument("--sparsity", default="0.9,0.95")
    p.add_argument("--budget", default="quick", choices=tuple(autotune.BUDGETS))
    p.add_argument("--seconds", type=float)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--jobs", type=int)
    p.add_argument("--store", type=Path)
    p.add_argument("--only", default="", help="problem numbers, e.g. 1,3,11")
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args()
    only = {int(n) for n in args.only.split(",") if n}
    rows = []
    for problem in paper_problems(data_folder(args.data), tuple(args.sparsity.split(","))):
        if not only or problem.number in only:
            rows.append(measure(problem, args))
            print(table(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
    print("\n" + table(rows, COLUMNS))
    for sparsity in sorted({r["sparsity"] for r in rows}):
        mine = [r for r in rows if r["sparsity"] == sparsity]
        print(
            f"geometric mean of {len(mine)} problems at {sparsity}: "
            f"{mean(mine, 'x heuristic'):.2f} x heuristic, {mean(mine, 'x dense'):.2f} x dense"
        )
    if args.json:
        env = environment(Device.of(torch.device(args.device)))
        args.json.write_text(json.dumps({"environment": env, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
