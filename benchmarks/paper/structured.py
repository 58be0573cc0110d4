"""The 2:4 report's Fig. 2: sparse against dense tensor cores over sizes, fp16."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from autotune.timing import interleaved, timer_for
from benchmarks.paper import published
from benchmarks.paper.part import Part, Row, Setting, Table, number
from sparse_triton.numerics import gamma

SIZES = (512, 1024, 2048, 4096, 6144, 8192, 12288)


def pruned_2_4(w: torch.Tensor) -> torch.Tensor:
    """The two largest of every four neighbours in a row."""
    groups = w.view(-1, 4)
    largest = groups.abs().topk(2, dim=1).indices
    return torch.zeros_like(groups).scatter(1, largest, groups.gather(1, largest)).view(w.shape)


def _measure(setting: Setting) -> list[Row]:
    return [_row(n, setting.device) for n in SIZES]


def _row(n: int, device: torch.device) -> Row:
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT

    draw = torch.Generator(device).manual_seed(n)
    W, X = (torch.randn(n, n, generator=draw, device=device).half() for _ in range(2))
    W = pruned_2_4(W)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a prototype
        packed = SparseSemiStructuredTensorCUSPARSELT.from_dense(W)
    error = error_over_bound(torch.mm(packed, X), W, X)
    if not error <= 1.0:
        raise AssertionError(f"2:4 at {n}: error is {error:.2f} times the bound")
    calls = (lambda: torch.mm(W, X), lambda: torch.mm(packed, X))
    dense, sparse = interleaved([timer_for(c, device) for c in calls], "cuda")  # type: ignore[arg-type]
    row = {"n": n, "error_over_bound": round(error, 4)}
    return row | {"dense_us": round(dense.us, 3), "sparse_us": round(sparse.us, 3)}


def error_over_bound(Y: torch.Tensor, W: torch.Tensor, X: torch.Tensor) -> float:
    """Largest error as a share of the bound: n/2 float32 terms, one rounding to fp16."""
    w, x = W.double(), X.double()
    y64 = w @ x
    bound = gamma(len(W)) * (w.abs() @ x.abs())
    bound = bound * (1 + 2.0**-11) + 2.0**-11 * y64.abs() + 2.0**-24
    return float(((Y.double() - y64).abs() / bound).max())


def _tflops(n: int, us: float) -> float:
    return 2e-6 * n**3 / us


def _table(rows: list[Row]) -> Table:
    head = ["M = N = K", "dense µs", "2:4 µs", "dense TFLOP/s", "2:4 TFLOP/s (dense-equivalent)",
            "× dense here", "× dense, report"]  # fmt: skip
    return head, [
        [
            str(r["n"]), number(r["dense_us"]), number(r["sparse_us"]),
            number(_tflops(r["n"], r["dense_us"]), 0), number(_tflops(r["n"], r["sparse_us"]), 0),
            number(r["dense_us"] / r["sparse_us"]), published.NOT_AVAILABLE,
        ]
        for r in rows
    ]  # fmt: skip


def _draw(rows: list[Row], figure: Any) -> None:
    axis = figure.subplots()
    axis.plot([r["n"] for r in rows], [r["dense_us"] / r["sparse_us"] for r in rows], "ko-",
              label="here, cuSPARSELt through torch")  # fmt: skip
    axis.axhline(
        published.STRUCTURED_PEAK, color="0.5", linestyle="--", label="math throughput, report"
    )
    axis.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="M = N = K", ylabel="× dense fp16", title="2:4 sparse tensor cores, fp16", ylim=0
    )
    axis.legend(fontsize=8)


FIG_2 = Part(
    "structured-fig-2",
    "2:4 report, Fig. 2: sparse against dense tensor cores over sizes",
    published.STRUCTURED,
    "The report's points were not available as numbers; its abstract states twice the math "
    "throughput. Here it is fp16 through torch's cuSPARSELt path with torch's default algorithm, "
    "square products of normal random numbers, against cuBLAS; another GPU, other libraries.",
    _measure,
    _table,
    _draw,
    (6.5, 4.0),
)
