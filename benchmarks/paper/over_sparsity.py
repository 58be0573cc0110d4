"""The survey's Fig. 11: 128·128·3136 from half empty to nearly empty."""

from __future__ import annotations

from typing import Any

from benchmarks.paper import published
from benchmarks.paper.part import Part, Row, Setting, Table, number, us_of
from benchmarks.problems import PaperProblem

M, K, N = 128, 128, 3136
SPARSITIES = ("0.5", "0.6", "0.7", "0.8", "0.85", "0.9", "0.95", "0.98", "0.99")
LINES = {
    "cublas_fp32": ("cuBLAS fp32", "0.5", "-", "o"),
    "cublas_tf32": ("cuBLAS TF32", "0.5", "--", "s"),
    "cublas_fp16": ("cuBLAS fp16", "0.5", ":", "^"),
    "torch_csr": ("cuSPARSE", "0.7", "-.", "D"),
    "gather": ("gather", "0.2", "--", "v"),
    "unrolled": ("unrolled", "black", "-", "P"),
}


def _measure(setting: Setting) -> list[Row]:
    problems = [PaperProblem(14, M, K, N, "MobileNetV1", s, None, None) for s in SPARSITIES]
    return setting.contest(problems, ("unrolled", "gather"))


def _table(rows: list[Row]) -> Table:
    head = ["zeros", *(f"{line[0]} µs" for line in LINES.values()), "spmm takes", "published µs"]
    return head, [
        [
            f"{float(r['sparsity']):.0%}", *(number(us_of(r, n)) for n in LINES),
            r["config"]["spmm"].partition("(")[0], published.NOT_AVAILABLE,
        ]
        for r in rows
    ]  # fmt: skip


def _draw(rows: list[Row], figure: Any) -> None:
    axis = figure.subplots()
    zeros = [100 * float(r["sparsity"]) for r in rows]
    for name, (label, colour, line, marker) in LINES.items():
        times = [us_of(r, name) for r in rows]
        axis.plot(zeros, times, color=colour, linestyle=line, marker=marker, label=label)
    axis.set(
        xlabel="zeros in W (%)", ylabel="time (µs)", yscale="log", title=f"{M}·{K}·{N}, float32"
    )
    axis.legend(fontsize=8, ncols=2)


FIG_11 = Part(
    "survey-fig-11",
    "Survey, Fig. 11: 128·128·3136 over sparsity",
    published.SURVEY,
    "The survey's times were not available to us. Weights are drawn and magnitude-pruned at each "
    "sparsity; both sparse families run their untuned defaults; TF32 and fp16 are there because a "
    "user may take them.",
    _measure,
    _table,
    _draw,
    (7.0, 4.2),
)
