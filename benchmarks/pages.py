"""The README's table and the documentation's: from committed results, never typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import host, report
from benchmarks.contest import OURS
from benchmarks.paper import PARTS
from benchmarks.paper.write import page
from benchmarks.sections import SECTIONS

Result = dict[str, Any]


def write_pages(root: Path) -> list[Path]:
    """Fill what stands between the markers of each page; the pages written."""
    results = root / "benchmarks" / "results"
    contents = {
        root / "README.md": _readme(results),
        root / "docs" / "performance.md": _performance(results),
        root / "docs" / "literature.md": page(
            PARTS.values(), results / "paper", "../benchmarks/results/paper"
        ),
    }
    for path, content in contents.items():
        path.write_text(report.replace_between(path.read_text(), "benchmark", content))
    return list(contents)


def _load(path: Path) -> Result:
    found: Result = json.loads(path.read_text())
    return found


def _readme(results: Path) -> str:
    """One table and one picture; the rest is the documentation's."""
    spmm = _load(results / "spmm.json")
    return (
        f"{_measured(spmm)}\n\n{report.summary(spmm['rows'])}\n\n"
        "![speed-up per problem](benchmarks/results/spmm.png)\n\n"
        f"{_networks(results / 'models.json')}"
        f"{_cpu_sentence(_load(results / 'spmm-cpu.json'))}"
    )


def _performance(results: Path) -> str:
    spmm, calls = _load(results / "spmm.json"), _load(results / "host.json")
    rows = spmm["rows"]
    means, counts, throughput = (results / "warmup.txt").read_text().strip().splitlines()[-3:]
    return (
        f"### Products\n\n{_measured(spmm)}\n\n{report.summary(rows)}\n\n"
        "![speed-up per problem](../benchmarks/results/spmm.png)\n\n"
        f"{_findings(rows)}"
        "Warming up the whole pruned ResNet-50, 54 weights, with 16 cores (`python -m autotune "
        f"warmup`; `benchmarks/results/warmup.txt`): {means}; {counts}; {throughput}.\n\n"
        f"Every problem, µs:\n\n{report.details(rows)}\n\n"
        f"### Host time of one eager call\n\nOn a {calls['environment']['device']}:\n\n"
        f"{host.table(calls['us'])}\n\n"
        f"### On a CPU\n\n{_cpu_sentence(_load(results / 'spmm-cpu.json'))}"
        + "".join(f"\n\n{text}" for s in SECTIONS if (text := s.text(results)))
    )


def _findings(rows: list[dict[str, Any]]) -> str:
    return (
        f"Tuning over the untuned choice: {report.tuning_gain(rows)}. "
        "Problems at batch 32 that memory bounds, as a fraction of the bandwidth of a copy: "
        f"{report.of_copy_bandwidth(rows)}. "
        "Problems on which `spmm` in float32, and in float16, is faster than cuBLAS in float16: "
        f"{report.half_against_half(rows)}. "
        "Compiling the kernel of an untuned call, all cores busy: "
        f"{report.compile_cost(rows)}. "
    )


def _networks(path: Path) -> str:
    """Speed-ups of whole networks in a sentence; empty where they were not measured."""
    if not path.exists():
        return ""
    from benchmarks.models_report import OURS, PLAIN, speedup

    result = _load(path)
    rows = [r for r in result["rows"] if r["batch"] == 1]
    gains = ", ".join(
        f"{r['network']} {speedup(r, OURS):.2f} ({speedup(r, OURS) / speedup(r, PLAIN):.2f})"
        for r in rows
    )
    return (
        "Whole pruned networks at batch 1, × the fastest dense float32 network we could write "
        "(BatchNorm folded, cuDNN with bias and ReLU in its kernels, each Linear as its fastest "
        "library call), in brackets × PyTorch's own layers (BatchNorm folded); all in CUDA graphs, "
        f"on one {result['environment']['device']}: {gains}.\n\n"
    )


def _measured(result: Result) -> str:
    facts = result["environment"]
    return (
        f"Measured on one {facts['device']} (driver {facts['driver']}, torch {facts['torch']}, "
        f"Triton {facts['triton']}) by `python -m benchmarks spmm`: the 20 SpMM problems of the "
        "SparseRT paper with their published weights, float32, every result verified before it was "
        "timed, CUDA graphs, warm, one run a batch size. TF32 and fp16 are cuBLAS at lower "
        f"precision, the other columns compute in float32; {_families(result['rows'])} are each "
        "family's default, *untuned* is what a call takes without a store, **spmm** what it "
        f"takes here ({_tuned(result['rows'])})."
    )


def _families(rows: list[dict[str, Any]]) -> str:
    """Those that were measured: ``*unrolled*, *gather* and *tf32x3*``."""
    names = [f"*{name}*" for name in OURS if name != "dense" and any(name in r["us"] for r in rows)]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _tuned(rows: list[dict[str, Any]]) -> str:
    """Whether the weights were tuned, batch by batch: where most rows found a stored study."""
    words = []
    for batch in sorted({r["batch"] for r in rows}):
        stored = [r["choice"] == "stored" for r in rows if r["batch"] == batch]
        words.append(f"{'tuned' if 2 * sum(stored) > len(stored) else 'untuned'} at batch {batch}")
    return ", ".join(words)


def _cpu_sentence(result: Result) -> str:
    facts, rows = result["environment"], [r for r in result["rows"] if r["N"] in (256, 3136)]
    gains = {
        name: [r[f"{name}_us"] / r["cpu_us"] for r in rows] for name in ("dense", "csr_chunked")
    }
    dense, chunked = (f"{min(g):.1f} to {max(g):.1f} ×" for g in gains.values())
    return (
        f"On a CPU ({facts['device']} threads, torch {facts['torch']}, `python -m benchmarks spmm "
        f"--device cpu`), {len(rows)} products of 512x2048 and 2048x512 weights at 90 and 95 % "
        f"zeros with 256 and 3136 columns: {dense} torch dense, {chunked} torch CSR in chunks of "
        "256 columns."
    )
