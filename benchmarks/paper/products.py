"""SparseRT's Table 1 and Fig. 4, the survey's Fig. 10: one measurement, three views."""

from __future__ import annotations

from typing import Any

from benchmarks.paper import published
from benchmarks.paper.part import Part, Row, Setting, Table, number, shape_of, us_of
from benchmarks.report import geometric_mean

NAMES = {
    "cublas_fp32": "cuBLAS fp32", "cublas_tf32": "cuBLAS TF32", "cublas_fp16": "cuBLAS fp16",
    "torch_csr": "cuSPARSE", "spmm": "spmm",
}  # fmt: skip
BARS = {"torch_csr": ("0.85", "//"), "cublas_fp32": ("0.6", ""), "spmm": ("black", "")}


def fold(row: Row, name: str = "spmm") -> float:
    return us_of(row, "cublas_fp32") / us_of(row, name)


def tflops(row: Row, name: str) -> float:
    """Dense-equivalent TFLOP/s: ``2 M K N`` over the time, so that all contestants compare."""
    return 2e-6 * float(row["M"]) * row["K"] * row["N"] / us_of(row, name)


def by_sparsity(rows: list[Row]) -> dict[str, list[Row]]:
    return {
        s: [r for r in rows if r["sparsity"] == s] for s in sorted({r["sparsity"] for r in rows})
    }


def _table_1(rows: list[Row]) -> Table:
    head = [
        "problem", "zeros", "cuBLAS fp32 µs", "spmm µs", "spmm takes", "× cuBLAS here",
        "× cuBLAS, paper (T4)",
    ]  # fmt: skip
    cells = [
        [
            f"{r['problem']}: {shape_of(r)}", f"{float(r['sparsity']):.0%}",
            number(us_of(r, "cublas_fp32")), number(us_of(r, "spmm")), _taken(r), number(fold(r)),
            number(r["t4_speedup"], 1),
        ]
        for r in rows
    ]  # fmt: skip
    for sparsity, group in by_sparsity(rows).items():
        theirs = geometric_mean(r["t4_speedup"] for r in group)
        stated = published.SPARSERT_MEANS[sparsity]
        cells.append(
            [
                f"**geometric mean of {len(group)}**", f"{float(sparsity):.0%}", "", "", "",
                f"**{geometric_mean(fold(r) for r in group):.2f}**",
                f"{theirs:.1f} of these; the abstract states {stated} over all its cases",
            ]
        )  # fmt: skip
    return head, cells


def _taken(row: Row) -> str:
    """The family, and where the choice came from."""
    return f"{row['config']['spmm'].partition('(')[0]} ({row['choice']})"


def _draw_table_1(rows: list[Row], figure: Any) -> None:
    groups = by_sparsity(rows)
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axis, (sparsity, group) in zip(axes, groups.items(), strict=True):
        at = range(len(group))
        axis.bar([x - 0.2 for x in at], [r["t4_speedup"] for r in group], 0.4, color="0.85",
                 hatch="//", edgecolor="black", linewidth=0.5, label="paper, T4")  # fmt: skip
        axis.bar([x + 0.2 for x in at], [fold(r) for r in group], 0.4, color="0.3",
                 edgecolor="black", linewidth=0.5, label="here")  # fmt: skip
        axis.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
        axis.set_xticks(
            at, [f"{r['problem']}\n{shape_of(r)}" for r in group], fontsize=6, rotation=30
        )
        axis.set(ylabel="× cuBLAS fp32", title=f"{float(sparsity):.0%} zeros")
        axis.legend(fontsize=8)


def _fig_4(setting: Setting) -> list[Row]:
    """TFLOP/s (dense-equivalent) of each contestant, and the fold speed-up."""
    rows = []
    for r in setting.products:
        row = {k: r[k] for k in ("problem", "M", "K", "N", "sparsity", "network")}
        row["tflops"] = {name: round(tflops(r, name), 3) for name in NAMES}
        rows.append(row | {"fold": round(fold(r), 3), "published_fold": r["t4_speedup"]})
    return rows


def _table_fig_4(rows: list[Row]) -> Table:
    head = [
        "problem",
        "zeros",
        *(f"{n} TFLOP/s" for n in NAMES.values()),
        "fold here",
        "fold, paper",
    ]
    return head, [
        [
            f"{r['problem']}: {shape_of(r)}", f"{float(r['sparsity']):.0%}",
            *(number(r["tflops"][n], 1) for n in NAMES), number(r["fold"]),
            number(r["published_fold"], 1),
        ]
        for r in rows
    ]  # fmt: skip


def _draw_fig_4(rows: list[Row], figure: Any) -> None:
    group = by_sparsity(rows)["0.9"]
    top, bottom = figure.subplots(2, 1, sharex=True)
    at = range(len(group))
    for i, (name, (colour, hatch)) in enumerate(BARS.items()):
        top.bar([x + (i - 1) * 0.27 for x in at], [r["tflops"][name] for r in group], 0.27,
                color=colour, hatch=hatch, edgecolor="black", linewidth=0.4,
                label=NAMES[name])  # fmt: skip
    top.set(ylabel="TFLOP/s, dense-equivalent", title="90 % zeros, batch 1, float32")
    top.legend(fontsize=8)
    bottom.plot(at, [r["fold"] for r in group], "ko-", label="here")
    bottom.plot(at, [r["published_fold"] for r in group], "s--", color="0.55", label="paper, T4")
    bottom.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    bottom.set(ylabel="fold over cuBLAS fp32")
    bottom.legend(fontsize=8)
    bottom.set_xticks(
        at, [f"{r['problem']}\n{shape_of(r)}" for r in group], fontsize=6, rotation=30
    )


def _fig_10(setting: Setting) -> list[Row]:
    rows = [r for r in setting.products if r["sparsity"] == "0.9"]
    keep = ("problem", "M", "K", "N", "sparsity")
    return [
        {k: r[k] for k in keep} | {"us": {n: r["us"][n] for n in NAMES if n in r["us"]}}
        for r in rows
    ]


def _table_fig_10(rows: list[Row]) -> Table:
    head = ["shape M·K·N", *(f"{n} µs" for n in NAMES.values()), "published µs"]
    return head, [
        [shape_of(r), *(number(us_of(r, n)) for n in NAMES), published.NOT_AVAILABLE] for r in rows
    ]


def _draw_fig_10(rows: list[Row], figure: Any) -> None:
    axis = figure.subplots()
    width = 0.8 / len(BARS)
    for i, (name, (colour, hatch)) in enumerate(BARS.items()):
        axis.bar([x + (i - 1) * width for x in range(len(rows))], [us_of(r, name) for r in rows],
                 width, color=colour, hatch=hatch, edgecolor="black", linewidth=0.4,
                 label=NAMES[name])  # fmt: skip
    axis.set_xticks(range(len(rows)), [shape_of(r) for r in rows], fontsize=6, rotation=45)
    axis.set(ylabel="time (µs)", yscale="log", xlabel="M·K·N", title="90 % zeros, float32")
    axis.legend(fontsize=8)


WEIGHTS = "the published patterns (values where they were published, else drawn), float32, batch 1"
TABLE_1 = Part(
    "sparsert-table-1",
    "SparseRT, Table 1: speed-up over cuBLAS",
    published.SPARSERT,
    f"Same problems, {WEIGHTS}. The GPU is another: a T4 has 8.1 TFLOP/s of float32, so that work "
    "saved shows as time saved; on the GPU here cuBLAS itself needs only some 5 to 22 µs for each "
    "product, and latency (a launch, a chain of dependent loads) is a large part of every time.",
    lambda setting: setting.products,
    _table_1,
    _draw_table_1,
    (11.0, 6.0),
    "spmm",
)
FIG_4 = Part(
    "sparsert-fig-4",
    "SparseRT, Fig. 4: TFLOP/s and fold speed-ups",
    published.SPARSERT,
    "TFLOP/s are dense-equivalent (2·M·K·N over the time) for every contestant; the paper's "
    "TFLOP/s were not available, its fold speed-ups are those of Table 1. cuSPARSE is called "
    "through torch.sparse, as a PyTorch user would.",
    _fig_4,
    _table_fig_4,
    _draw_fig_4,
    (11.0, 6.0),
    "spmm",
)
FIG_10 = Part(
    "survey-fig-10",
    "Survey, Fig. 10: time per shape at 90 % zeros",
    published.SURVEY,
    "The survey's times were not available to us, nor which shapes it lists: these are SparseRT's "
    "problems. Its GPU was another, so that absolute times would not compare.",
    _fig_10,
    _table_fig_10,
    _draw_fig_10,
    (10.0, 4.2),
    "spmm",
)
