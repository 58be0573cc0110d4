"""What is to be computed: shapes, layouts, dtypes, epilogue. Frozen, hashable, torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from sparse_triton.errors import DtypeError, InputError

Layout = Literal["row", "column"]
Pair = tuple[int, int]

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
    x_dtype              float32, float16 or bfloat16; Y has the same
    accumulate           "float32"; with float16 X also "float16": sums of at most
                         ``numerics.HALF_CHUNK`` products may be float16, and are added in float32

    Raises ``InputError`` for another ``accumulate``.
    """

    kind: ClassVar[str] = "spmm"
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
    accumulate: str = "float32"

    def __post_init__(self) -> None:
        check_accumulate(self.accumulate, self.x_dtype)

    @property
    def sparsity(self) -> float:
        elements = self.M * self.K
        return 1.0 - self.nnz / elements if elements else 0.0

    @property
    def x_itemsize(self) -> int:
        return _itemsize(self.x_dtype)

    @property
    def flop(self) -> int:
        """Useful operations: one multiply and one add per non-zero and column."""
        return 2 * self.nnz * self.N * self.batch

    @property
    def strides(self) -> dict[str, int]:
        """Elements between neighbours along each axis of x [batch, K, N] and y [batch, M, N]."""
        x_k, x_n = (self.N, 1) if self.x_layout == "row" else (1, self.K)
        y_m, y_n = (self.N, 1) if self.y_layout == "row" else (1, self.M)
        return {
            "stride_xk": x_k, "stride_xn": x_n, "stride_xb": self.K * self.N,
            "stride_ym": y_m, "stride_yn": y_n, "stride_yb": self.M * self.N,
        }  # fmt: skip

    @property
    def min_bytes(self) -> int:
        """Least traffic: X and residual read once, Y written once, W as values + 16-bit columns."""
        x = self.K * self.N * self.batch * self.x_itemsize
        y = self.M * self.N * self.batch * self.x_itemsize
        w = self.nnz * (_itemsize(self.w_dtype) + 2)
        return x + y * (2 if self.epilogue.residual else 1) + w

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for keys and tables; ``accumulate`` only where it is not float32."""
        d = asdict(self)
        if self.accumulate == "float32":
            del d["accumulate"]
        return d

    def __str__(self) -> str:
        name = f"{self.M}x{self.K}x{self.N}"
        if self.batch != 1:
            name = f"{self.batch}x {name}"
        sums = "" if self.accumulate == "float32" else f", {self.accumulate} sums"
        return f"{name} {self.x_dtype}{sums}, {self.sparsity:.1%} zeros"


def check_accumulate(accumulate: str, x_dtype: str) -> None:
    """Raise ``InputError`` unless such sums exist and X's dtype has them."""
    if accumulate not in ("float32", "float16"):
        raise InputError(f"accumulate must be 'float32' or 'float16', got {accumulate!r}")
    if accumulate == "float16" and x_dtype != "float16":
        raise DtypeError(
            f"accumulate='float16' needs float16 X, got {x_dtype}; use X.half() or "
            "accumulate='float32'"
        )


@dataclass(frozen=True)
class Pool:
    """Max or average over windows of the finished pixels, as ``torch.nn.functional`` has it.

    Pixels of the padding count as -inf in "max", as zeros of the mean in "avg". All pairs are
    (rows, columns) of pixels.
    """

    kind: Literal["max", "avg"]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class ConvProblem:
    """``Y[b, m, p, q] = pool(activation(sum_k W[m, k] X[b, c, h, w] + bias[m] + residual))``.

    Column k of W [M, C*R*S] is the tap (c, r, s), c slowest, over all C channels: the groups of a
    weight are written out block-diagonally when it is analysed. It meets the element
    h = p * stride - top + r * dilation (and w likewise), which is zero outside of the image.

    batch, C, H, W  the input's images, channels, rows and columns
    M, R, S         filters and the extent of their kernel
    padding         (top, bottom, left, right)
    groups          as the weight was given: C/groups channels a filter, for the dense call
    x_layout        "row": NCHW; "column": channels-last, the C values of a pixel are adjacent
    y_layout        the same of Y and of the residual
    x_dtype         as in ``SpmmProblem``
    pool            follows the activation; the residual is added before
    """

    kind: ClassVar[str] = "conv"
    batch: int
    C: int
    H: int
    W: int
    M: int
    R: int
    S: int
    nnz: int
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    x_dtype: str = "float32"
    w_dtype: str = "float32"
    x_layout: Layout = "row"
    y_layout: Layout = "row"
    epilogue: Epilogue = field(default_factory=Epilogue)
    pool: Pool | None = None

    @property
    def P(self) -> int:
        """Rows of the convolution, before the pool."""
        top, bottom, _, _ = self.padding
        return slides(self.H + top + bottom, self.R, self.stride[0], self.dilation[0])

    @property
    def Q(self) -> int:
        """Columns of the convolution, before the pool."""
        _, _, left, right = self.padding
        return slides(self.W + left + right, self.S, self.stride[1], self.dilation[1])

    @property
    def K(self) -> int:
        return self.C * self.R * self.S

    @property
    def N(self) -> int:
        """Pixels of one image's convolution."""
        return self.P * self.Q

    @property
    def y_size(self) -> Pair:
        """Rows and columns of Y: of the pool, if there is one."""
        pool = self.pool
        if pool is None:
            return self.P, self.Q
        return pooled(self.P, pool, 0), pooled(self.Q, pool, 1)

    @property
    def sparsity(self) -> float:
        """Share of zeros in the weight as it was given."""
        elements = self.M * self.K // self.groups
        return 1.0 - self.nnz / elements if elements else 0.0

    @property
    def x_itemsize(self) -> int:
        return _itemsize(self.x_dtype)

    @property
    def x_strides(self) -> tuple[int, int, int]:
        """Elements between neighbouring channels, rows and columns of one image."""
        return _strides(self.x_layout, self.C, self.H, self.W)

    @property
    def y_strides(self) -> tuple[int, int, int]:
        """Elements between neighbouring filters, rows and columns of one image of Y."""
        return _strides(self.y_layout, self.M, *self.y_size)

    @property
    def origin(self) -> int:
        """Element offset in an image of tap (0, 0, 0) of pixel (0, 0); negative in the padding."""
        _, h, w = self.x_strides
        return -(self.padding[0] * h + self.padding[2] * w)

    @property
    def flop(self) -> int:
        """Useful operations: one multiply and one add per non-zero and pixel."""
        return 2 * self.nnz * self.N * self.batch

    @property
    def min_bytes(self) -> int:
        """Least traffic: X and residual read once, Y written once, W as values + 16-bit columns."""
        y_h, y_w = self.y_size
        pixels = y_h * y_w + (self.N if self.epilogue.residual else 0)
        images = self.batch * (self.C * self.H * self.W + self.M * pixels) * self.x_itemsize
        return images + self.nnz * (_itemsize(self.w_dtype) + 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for keys and tables."""
        return asdict(self)

    def __str__(self) -> str:
        name = f"conv {self.R}x{self.S} {self.C}->{self.M} on {self.H}x{self.W}"
        if self.batch != 1:
            name = f"{self.batch}x {name}"
        if self.stride != (1, 1):
            name += f" stride {self.stride[0]}x{self.stride[1]}"
        if self.pool is not None:
            name += f" + {self.pool.kind} pool {self.pool.kernel[0]}x{self.pool.kernel[1]}"
        return f"{name} {self.x_dtype}, {self.sparsity:.1%} zeros"


Problem = SpmmProblem | ConvProblem
ProblemT = TypeVar("ProblemT", bound=Problem, default=SpmmProblem)


@dataclass(frozen=True, eq=False)
class Taps:
    """The virtual K axis: for each column of W its channel, its place in the kernel and the offset
    of its element from the pixel's base, ``origin + p * stride * x_strides[1] + …``, in elements.

    All [K] int64.
    """

    c: NDArray[np.int64]
    r: NDArray[np.int64]
    s: NDArray[np.int64]
    offset: NDArray[np.int64]


def taps(problem: ConvProblem) -> Taps:
    """The index map of implicit im2col: no matrix of patches is ever written."""
    c, r, s = (i.ravel() for i in np.indices((problem.C, problem.R, problem.S), dtype=np.int64))
    x_c, x_h, x_w = problem.x_strides
    dilation_h, dilation_w = problem.dilation
    return Taps(c, r, s, c * x_c + r * dilation_h * x_h + s * dilation_w * x_w)


def slides(extent: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Places of a kernel within ``extent`` elements; 0 where it does not fit."""
    room = extent - dilation * (kernel - 1) - 1
    return room // stride + 1 if room >= 0 else 0


def pooled(extent: int, pool: Pool, axis: int) -> int:
    """Windows of a pool along one axis (0: rows, 1: columns)."""
    return slides(extent + 2 * pool.padding[axis], pool.kernel[axis], pool.stride[axis])


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _strides(layout: Layout, channels: int, height: int, width: int) -> tuple[int, int, int]:
    return (height * width, width, 1) if layout == "row" else (1, width * channels, channels)
