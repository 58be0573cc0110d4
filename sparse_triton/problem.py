"""What is to be computed: shapes, layouts, dtypes, epilogue. Frozen, hashable, torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Layout = Literal["row", "column"]

# From here on a GPU is full whatever the tile, and traffic decides; below it, latency does.
MANY_COLUMNS = 4096


@dataclass(frozen=True)
class Epilogue:
    """What follows the product, in this order: bias, residual, activation."""

    bias: bool = False
    residual: bool = False
    activation: str | None = None


@dataclass(frozen=True)
class SpmmProblem:
    """``Y[M, N] = activation(W[M, K] @ X[K, N] + bias[:, None] + residual)``, ``batch`` times.

    x_layout, y_layout   "row": columns are adjacent in memory; "column": token-major, the K (or M)
                         values of one column are adjacent
    x_dtype              float32, float16 or bfloat16; Y has the same, accumulation is float32
    """

    M: int
    K: int
    N: int
    nnz: int
    batch: int = 1
    x_dtype: str = "float32"
    w_dtype: str = "float32"
    x_layout: Layout = "row"
    y_layout: Layout = "row"
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def sparsity(self) -> float:
        elements = self.M * self.K
        return 1.0 - self.nnz / elements if elements else 0.0

    @property
    def x_itemsize(self) -> int:
        return 4 if self.x_dtype == "float32" else 2

    @property
    def flop(self) -> int:
        """Useful operations: one multiply and one add per non-zero and column."""
        return 2 * self.nnz * self.N * self.batch

    @property
    def min_bytes(self) -> int:
        """Least traffic: X and residual read once, Y written once, W as values + 16-bit columns."""
        x = self.K * self.N * self.batch * self.x_itemsize
        y = self.M * self.N * self.batch * self.x_itemsize
        w_itemsize = 4 if self.w_dtype == "float32" else 2
        return x + y * (2 if self.epilogue.residual else 1) + self.nnz * (w_itemsize + 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for keys and tables."""
        return asdict(self)

    def __str__(self) -> str:
        name = f"{self.M}x{self.K}x{self.N}"
        if self.batch != 1:
            name = f"{self.batch}x {name}"
        return f"{name} {self.x_dtype}, {self.sparsity:.1%} zeros"
