"""SpMM on a CPU: torch dense, torch CSR, torch CSR in chunks of columns, and family ``cpu``.

``run()`` verifies family ``cpu`` against float64 and the derived bound, then measures all four
interleaved and keeps the minimum, which is what a machine that others also use can still repeat.
All write into outputs that exist already: the pages of a fresh one would cost more than the kernel.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from benchmarks.problems import drawn
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.device import Device
from sparse_triton.executor import prepare, problem_of
from sparse_triton.kernels import FAMILIES
from sparse_triton.numerics import error_bound

SHAPES = ((512, 2048), (2048, 512))
SPARSITIES = (0.90, 0.95)
COLUMNS = (256, 3136)
FEW_COLUMNS = (1, 49, 784)
CHUNK = 256  # columns at which torch CSR does not fall off its cache cliff
ROW_SECONDS = 3.0  # a row stops here, after three rounds at least
BASELINES = ("dense", "csr", "csr_chunked")
Row = dict[str, Any]


def run(repeats: int = 50) -> list[Row]:
    """Rows with M, K, N, sparsity, config, error_over_bound and ``*_us`` of each contestant."""
    cases = list(product(SHAPES, SPARSITIES, COLUMNS))
    cases += list(product(SHAPES, SPARSITIES[:1], FEW_COLUMNS))
    return [_row(*shape, sparsity, N, repeats) for shape, sparsity, N in cases]


def _row(M: int, K: int, sparsity: float, N: int, repeats: int) -> Row:
    W = drawn(M, K, sparsity, seed=M + N)
    X = torch.randn(K, N, generator=torch.Generator().manual_seed(N))
    call = Call(X, None, None, None, False)
    config = FAMILIES["cpu"].default_config(problem_of(W, call), Device.of(X.device))
    launch = prepare(W, call, config)
    row: Row = {"M": M, "K": K, "N": N, "sparsity": sparsity, "config": str(config)}
    row["error_over_bound"] = _error_over_bound(W, X, launch(call, None), config.Gy)
    Y = torch.empty(M, N)
    calls = {**_baselines(W, X), "cpu": lambda: launch(call, Y)}
    return row | {f"{name}_us": us for name, us in interleaved(calls, repeats).items()}


def _error_over_bound(W: SparseMatrix, X: torch.Tensor, Y: torch.Tensor, Gy: int) -> float:
    w, x = W.to_dense().double(), X.double()
    y64, magnitude = (w @ x).numpy(), (w.abs() @ x.abs()).numpy()
    bound = error_bound(W.csr.row_lengths, magnitude, y64, Gy=Gy)
    ratio = float((abs(Y.double().numpy() - y64) / bound).max())
    if not ratio <= 1.0:
        raise AssertionError(f"family cpu is off by {ratio:.2f} times the bound")
    return ratio


def _baselines(W: SparseMatrix, X: torch.Tensor) -> dict[str, Callable[[], object]]:
    w = W.to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that its CSR support is beta
        csr = torch.sparse_csr_tensor(
            W.row_offsets.int(), W.column_indices.int(), W.values, W.shape
        )

    Y = torch.empty(W.shape[0], X.shape[1])

    def chunked() -> None:
        for n in range(0, X.shape[1], CHUNK):
            Y[:, n : n + CHUNK] = torch.mm(csr, X[:, n : n + CHUNK].contiguous())

    return {
        "dense": lambda: torch.mm(w, X, out=Y),
        "csr": lambda: torch.mm(csr, X, out=Y),
        "csr_chunked": chunked if X.shape[1] > CHUNK else lambda: torch.mm(csr, X, out=Y),
    }


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """µs of each call, the least of the repeats; contestants take turns."""
    best = dict.fromkeys(calls, float("inf"))
    deadline = time.perf_counter() + ROW_SECONDS
    for i in range(repeats):
        if i >= 3 and time.perf_counter() > deadline:
            break
        for name, call in calls.items():
            call()  # what ran before has filled the caches
            start = time.perf_counter()
            call()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e6)
    return best


def table(rows: list[Row]) -> str:
    """Markdown: times in µs, and how many times faster than each baseline family ``cpu`` is."""
    names = [*BASELINES, "cpu"]
    head = ["W", "zeros", "N", *(f"{n} µs" for n in names), *(f"x {n}" for n in BASELINES)]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for r in rows:
        cells = [f"{r['M']}x{r['K']}", f"{r['sparsity']:.0%}", str(r["N"])]
        cells += [f"{r[f'{n}_us']:.0f}" for n in names]
        cells += [f"{r[f'{n}_us'] / r['cpu_us']:.1f}" for n in BASELINES]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)
