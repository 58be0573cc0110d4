"""SparseRT's Table 3 (3x3 layers of ResNet-50), the survey's VGG-19 with and without pools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.conv_problems import conv_layers, pool_layers
from benchmarks.paper import published
from benchmarks.paper.part import Part, Row, Setting, Table, number, us_of
from benchmarks.report import geometric_mean

NAMES = {
    "cudnn_fp32": "cuDNN fp32",
    "cudnn_tf32": "TF32",
    "cudnn_fp16": "fp16 channels-last",
    "conv2d": "conv2d",
}
POOL_NAMES = {**NAMES, "ours_then_pool": "conv2d, then pool", "conv2d": "conv2d_pool"}


def fold(row: Row, name: str = "conv2d") -> float:
    return us_of(row, "cudnn_fp32") / us_of(row, name)


def _mean(rows: list[Row]) -> float:
    """Over layers: a shape counts as often as the network has it."""
    return geometric_mean(fold(r) for r in rows for _ in range(r["count"]))


def _zeros(row: Row) -> str:
    return f"{float(row['sparsity']):.0%}"


# -- SparseRT, Table 3 -----------------------------------------------------------------------------


def _table_3(setting: Setting) -> list[Row]:
    """The four problems with the published pattern, and where there are any the published values.
    ``t4_speedup``: the paper's figure for the problem."""
    stated = published_speedups(setting.folder)
    layers = [
        layer
        for layer in conv_layers(setting.folder, ("0.9", "0.95"), (1,))
        if layer.name.startswith("ResNet-50") and layer.stride == 1
    ]
    return [
        row | {"t4_speedup": stated[row["layer"].split()[1].rstrip(","), row["sparsity"]]}
        for row in setting.convolutions(layers, "conv")
    ]


def published_speedups(folder: Path) -> dict[tuple[str, str], float]:
    """Speed-ups over cuDNN by (problem, sparsity)."""
    problems = json.loads((folder / "problems.json").read_text())["conv3x3"]
    return {
        (str(p["problem"]), sparsity): speedup
        for p in problems
        for sparsity, speedup in p["t4_speedup_over_cudnn"].items()
    }


def _show_table_3(rows: list[Row]) -> Table:
    head = ["layer", "zeros", *(f"{n} µs" for n in NAMES.values()), "× cuDNN here", "× cuDNN, T4"]
    return head, [
        [
            f"{r['layer']}: {r['C']}, {r['size']}²", _zeros(r),
            *(number(us_of(r, n)) for n in NAMES), number(fold(r)), number(r["t4_speedup"], 1),
        ]
        for r in rows
    ]  # fmt: skip


def _draw_table_3(rows: list[Row], figure: Any) -> None:
    rows = [r for r in rows if "values" not in r["layer"]]
    axis = figure.subplots()
    at = range(len(rows))
    style = {"edgecolor": "black", "linewidth": 0.5}
    theirs = [r["t4_speedup"] for r in rows]
    axis.bar(
        [x - 0.2 for x in at], theirs, 0.4, color="0.85", hatch="//", label="paper, T4", **style
    )
    axis.bar(
        [x + 0.2 for x in at], [fold(r) for r in rows], 0.4, color="0.3", label="here", **style
    )
    axis.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set_xticks(at, [f"{r['C']}, {r['size']}²\n{_zeros(r)}" for r in rows], fontsize=8)
    axis.set(ylabel="× cuDNN fp32", title="3x3, padding 1, stride 1, batch 1")
    axis.legend(fontsize=8)


# -- the survey's VGG-19 ---------------------------------------------------------------------------


def _vgg_conv(setting: Setting) -> list[Row]:
    layers = conv_layers(setting.folder, ("0.9",), (1,))
    vgg = [layer for layer in layers if layer.name.startswith("VGG-19")]
    return setting.convolutions(vgg, "conv")


def _vgg_pool(setting: Setting) -> list[Row]:
    return setting.convolutions(pool_layers(("0.9",), (1,)), "convpool")


def _totals(rows: list[Row], names: dict[str, str]) -> list[str]:
    """Sums over the network's layers, µs."""
    return [f"**{number(sum(r['count'] * us_of(r, n) for r in rows), 0)}**" for n in names]


def _show_vgg(rows: list[Row], names: dict[str, str], theirs: str) -> Table:
    head = ["layer", "times", *(f"{n} µs" for n in names.values()), "× cuDNN here", "published"]
    cells = [
        [
            f"{r['C']} to {r['M']}, {r['size']}²", str(r["count"]),
            *(number(us_of(r, n), 1) for n in names), number(fold(r)), published.NOT_AVAILABLE,
        ]
        for r in rows
    ]  # fmt: skip
    layers = str(sum(r["count"] for r in rows))
    mean = f"**{_mean(rows):.2f}** (geometric mean)"
    return head, [*cells, ["**all**", layers, *_totals(rows, names), mean, theirs]]


def _draw_vgg(rows: list[Row], figure: Any, names: dict[str, str]) -> None:
    axis = figure.subplots()
    shades = dict(zip(names, ("0.95", "0.8", "0.6", "black", "0.35"), strict=False))
    width = 0.85 / len(names)
    for i, (name, label) in enumerate(names.items()):
        at = [x + (i - (len(names) - 1) / 2) * width for x in range(len(rows))]
        axis.bar(at, [us_of(r, name) for r in rows], width, color=shades[name], edgecolor="black",
                 linewidth=0.4, label=label)  # fmt: skip
    labels = [f"{r['C']}→{r['M']}\n{r['size']}²" for r in rows]
    axis.set_xticks(range(len(rows)), labels, fontsize=7)
    axis.set(ylabel="time (µs)", yscale="log", title="VGG-19 at 224², 90 % zeros, batch 1")
    axis.legend(fontsize=8, ncols=3)


FAIR = (
    "Both sides warm and captured in a CUDA graph, cuDNN with `benchmark=True`, one run; weights "
    "are drawn and magnitude-pruned."
)
TABLE_3 = Part(
    "sparsert-table-3",
    "SparseRT, Table 3: 3x3 convolutions of ResNet-50",
    published.SPARSERT,
    "The published patterns with drawn values, and again where the filters themselves were "
    "published. The GPU and its cuDNN are others: on the one here cuDNN fp32 needs more time from "
    "layer to layer, 56² to 7², at the same arithmetic, which shifts the ratios.",
    _table_3,
    _show_table_3,
    _draw_table_3,
    (9.0, 3.6),
    "conv",
)
VGG_CONV = Part(
    "survey-vgg19-conv",
    "Survey: VGG-19, convolution",
    f"{published.SURVEY}; {published.PECR}",
    f"{FAIR} ECR and PECR, which the survey measures, make use of zeros in the *feature map* and "
    "find them at run time; here the zeros are in the weights, known before. The survey's times "
    "were not available; the figure is that of PECR's abstract, whole network over cuDNN.",
    _vgg_conv,
    lambda rows: _show_vgg(rows, NAMES, f"{published.PECR_VGG19} × (whole network, abstract)"),
    lambda rows, figure: _draw_vgg(rows, figure, NAMES),
    (9.5, 4.0),
    "conv",
)
VGG_CONV_POOL = Part(
    "survey-vgg19-conv-pool",
    "Survey: VGG-19, convolution + pool",
    f"{published.SURVEY}; {published.PECR}",
    f"{FAIR} The library's side is convolution with bias and ReLU in one call, then the pool, in "
    "one graph. The published 16 to 17 × of PECR is over a cuDNN side whose time included creating "
    "its handles, which a running network does once.",
    _vgg_pool,
    lambda rows: _show_vgg(rows, POOL_NAMES, "16 to 17 × (handle creation timed)"),
    lambda rows, figure: _draw_vgg(rows, figure, POOL_NAMES),
    (9.0, 4.0),
    "convpool",
)
