"""What a warm-up and a store look like as text and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from autotune.jobs import Job
from autotune.tune_model import Tuned, WarmupResult
from sparse_triton.choose import stale
from sparse_triton.records import Entry

Row = dict[str, Any]
WARMUP_COLUMNS = ("weight", "shape", "N", "sparsity", "family", "config", "us", "x dense", "s")
SHOW_COLUMNS = ("pattern", "problem", "family", "config", "us", "x dense", "trials", "note")


def warmup_row(tuned: Tuned) -> Row:
    """One weight: ``us`` of the winner, times faster than dense, seconds spent on it."""
    problem, result = tuned.job.key.problem, tuned.result
    return {
        "weight": tuned.job.name,
        "names": tuned.job.names,
        "kind": tuned.job.weight.kind,
        "shape": f"{problem.M}x{problem.K}",
        "N": problem.N if problem.batch == 1 else f"{problem.batch}x{problem.N}",
        "sparsity": round(problem.sparsity, 4),
        "family": result.config.kernel,
        "config": short(result.entry),
        "us": _number(result.us),
        "dense us": _number(result.dense_us),
        "x dense": _number(result.speedup),
        "measured": result.measured,
        "outcomes": dict(result.entry.outcomes()),
        "s": round(result.seconds, 1),
        "from": tuned.leader,
    }


def warmup_json(result: WarmupResult) -> Row:
    """Everything a warm-up says, for scripts."""
    return {
        "weights": [warmup_row(t) for t in in_name_order(result.tuned)],
        "skipped": result.skipped,
        "measured": result.measured,
        "outcomes": dict(outcomes(result.tuned)),
        "seconds": round(result.seconds, 1),
        "compiled": result.compiled,
        "compiled_nnz": result.compiled_nnz,
        "compile_s": round(result.compile_s, 1),
    }


def warmup_text(result: WarmupResult) -> str:
    """The table, and below it what it took."""
    rows = [warmup_row(t) for t in in_name_order(result.tuned)]
    lines = [table(rows, WARMUP_COLUMNS)] if rows else []
    speedups = [r["x dense"] for r in rows if r["x dense"]]
    if speedups:
        mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
        lines.append(f"geometric mean over {len(speedups)} problems: {mean:.2f} x dense")
    products = (t for t in result.tuned if t.job.key.problem.kind == "spmm")
    kxk = [t for t in products if t.job.weight.kind not in ("matrix", "linear", "conv 1x1")]
    if kxk:
        lines.append(
            f"{len(kxk)} convolutions larger than 1x1 were tuned as the product [C_out, C_in*R*S] "
            "behind them"
        )
    counts = ", ".join(f"{n} {o}" for o, n in outcomes(result.tuned).items()) or "none"
    lines.append(f"configurations: {counts}; {result.measured} measured in this run")
    lines.append(_effort(result, len(rows)))
    if result.skipped:
        lines.append(f"no columns known, use --n or --n-map: {', '.join(result.skipped)}")
    return "\n".join(lines)


def _effort(result: WarmupResult, rows: int) -> str:
    words = f"{result.seconds:.1f} s, {result.seconds / max(1, rows):.1f} s a weight"
    if result.compiled and result.compile_s:
        per_core = result.compiled_nnz / result.compile_s
        words += (
            f"; {result.compiled} kernels compiled: {result.compiled_nnz} non-zeros, "
            f"{per_core:.0f} a second and core, "
            f"{result.compiled_nnz / max(result.seconds, 1e-9):.0f} a second in all"
        )
    return words


def outcomes(tuned: Sequence[Tuned]) -> Counter[str]:
    total: Counter[str] = Counter()
    for t in tuned:
        total += t.result.entry.outcomes()
    return total


def in_name_order(tuned: Sequence[Tuned]) -> list[Tuned]:
    return sorted(tuned, key=lambda t: (t.job.name, t.job.key.problem.N))


def plan_rows(jobs: Sequence[Job], trials: int | None, sibling_trials: int) -> list[Row]:
    """What a warm-up would do."""
    rows = []
    for leader in jobs:
        for job in (leader, *leader.siblings):
            problem = job.key.problem
            rows.append(
                {
                    "weight": job.name,
                    "shape": f"{problem.M}x{problem.K}",
                    "N": problem.N,
                    "sparsity": round(problem.sparsity, 4),
                    "nnz": problem.nnz,
                    "configs": (trials or "all") if job is leader else sibling_trials,
                    "from": "" if job is leader else leader.name,
                }
            )
    return rows


PLAN_COLUMNS = ("weight", "shape", "N", "sparsity", "nnz", "configs", "from")


def show_row(entry: Entry) -> Row:
    """One entry of the store."""
    best = entry.best
    return {
        "pattern": entry.key.pattern_hash[:12],
        "problem": str(entry.key.problem),
        "device": entry.device.name,
        "family": best.config.kernel if best else "-",
        "config": short(entry),
        "us": _number(best.timing.us) if best else None,
        "dense us": _number(best.dense.us) if best and best.dense else None,
        "x dense": _number(best.speedup) if best else None,
        "trials": sum(t.outcome != "invalid" for t in entry.trials),
        "outcomes": dict(entry.outcomes()),
        "stale": stale(entry, entry.device),
        "created": entry.created,
        "note": entry.note if best else "unfinished",
        "key": entry.key.sha256,
    }


def short(entry: Entry) -> str:
    """The winner's fields without its family's name."""
    config = entry.best.config if entry.best else None
    if config is None or config.kernel == "dense":
        return "-"
    return str(config).partition("(")[2].removesuffix(")")


def _number(value: float | None) -> float | None:
    """For JSON: NaN is no number."""
    return round(value, 3) if value is not None and math.isfinite(value) else None


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Aligned text; numbers to the right."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    right = [isinstance(rows[0].get(c), int | float) for c in columns]

    def line(texts: Sequence[str]) -> str:
        each = zip(texts, widths, right, strict=True)
        return "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in each).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
