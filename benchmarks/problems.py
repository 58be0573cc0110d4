"""The paper's problems: which weight, which shape. Patterns and values are read where they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_triton import SparseMatrix
from sparse_triton.errors import FileFormatError

DATA_VARIABLE = "SPARSE_TRITON_DATA"


@dataclass(frozen=True)
class PaperProblem:
    """One of the 20 SpMM problems of SparseRT (Wang, PACT 2020) at one sparsity."""

    number: int
    M: int
    K: int
    N: int
    network: str
    sparsity: str
    weight: Path | None
    t4_speedup: float | None

    @property
    def name(self) -> str:
        return f"{self.number} {self.M}x{self.K}x{self.N}"

    def load(self) -> SparseMatrix:
        """The published weight; problem 20 has none and is drawn at the same sparsity."""
        if self.weight is None:
            return drawn(self.M, self.K, float(self.sparsity), seed=self.number)
        if self.weight.suffix == ".npz":
            return SparseMatrix.from_npz(self.weight)
        return SparseMatrix.from_smtx(self.weight)


def data_folder(given: str | None) -> Path:
    """``--data``, else the environment variable; ``FileFormatError`` without problems.json."""
    folder = Path(given or os.environ.get(DATA_VARIABLE, "data"))
    if not (folder / "problems.json").is_file():
        raise FileFormatError(
            f"{folder} holds no problems.json; pass --data DIR or set {DATA_VARIABLE}"
        )
    return folder


def paper_problems(folder: Path, sparsities: tuple[str, ...]) -> Iterator[PaperProblem]:
    """All 20 at 90 %, the first 11 at 95 %, as published."""
    entries: list[dict[str, Any]] = json.loads((folder / "problems.json").read_text())["spmm"]
    for sparsity in sparsities:
        for e in entries:
            weight = e["weights"].get(sparsity)
            published = e["t4_speedup_over_cublas"].get(sparsity)
            if published is not None:
                yield PaperProblem(
                    e["problem"], e["M"], e["K"], e["N"], e["network"], sparsity,
                    folder / weight if weight else None, published,
                )  # fmt: skip


def drawn(M: int, K: int, sparsity: float, seed: int) -> SparseMatrix:
    """A normal weight, magnitude-pruned to exactly round((1 - sparsity) M K) entries."""
    w = torch.randn(M, K, generator=torch.Generator().manual_seed(seed))
    keep = max(1, round((1 - sparsity) * M * K))
    threshold = w.abs().flatten().kthvalue(M * K - keep + 1).values
    return SparseMatrix.from_dense(torch.where(w.abs() >= threshold, w, 0.0))
