"""How filters slide over an image: PyTorch's arguments spelled out as pairs, and their laws."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import torch

from sparse_triton.errors import InputError, ShapeError
from sparse_triton.problem import Pair, Pool, pooled, slides

Sides = tuple[int, int, int, int]
PoolKind = Literal["max", "avg"]
T = TypeVar("T")


class Geometry(NamedTuple):
    """Pairs are (rows, columns), padding is (top, bottom, left, right)."""

    kernel: Pair
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int
    pool: Pool | None = None

    def conv_size(self, height: int, width: int) -> Pair:
        """Rows and columns of the convolution of an image; 0 where the kernel does not fit."""
        top, bottom, left, right = self.padding
        (R, S), (step_h, step_w), (dilation_h, dilation_w) = self.kernel, self.stride, self.dilation
        return (
            slides(height + top + bottom, R, step_h, dilation_h),
            slides(width + left + right, S, step_w, dilation_w),
        )

    def y_size(self, height: int, width: int) -> Pair:
        """Rows and columns of the result: of the pool, if there is one."""
        P, Q = self.conv_size(height, width)
        return (P, Q) if self.pool is None else (pooled(P, self.pool, 0), pooled(Q, self.pool, 1))

    @property
    def pointwise(self) -> bool:
        """Whether each pixel depends on its own place alone: then this is a matrix product."""
        once = self.kernel == self.stride == (1, 1)
        return once and self.padding == (0, 0, 0, 0) and self.pool is None


def geometry_of(
    kernel: Pair,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    pool: Pool | None = None,
) -> Geometry:
    """The geometry behind the arguments of ``torch.nn.functional.conv2d``.

    Raises ``InputError`` for a value that is none: strides and dilations are at least 1, paddings
    at least 0, "same" goes with stride 1.
    """
    steps, gaps = pair("stride", stride, 1), pair("dilation", dilation, 1)
    return Geometry(kernel, steps, _sides(padding, kernel, steps, gaps), gaps, groups, pool)


def pool_of(
    kind: str,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
) -> Pool:
    """The pool behind the arguments of ``torch.nn.functional.max_pool2d`` or ``avg_pool2d``."""
    if kind not in get_args(PoolKind):
        raise InputError(f'pool must be "max" or "avg", got {kind!r}')
    window = pair("pool_kernel", kernel, 1)
    steps = window if stride is None else pair("pool_stride", stride, 1)
    border = pair("pool_padding", padding, 0)
    if any(2 * b > w for b, w in zip(border, window, strict=True)):
        raise ShapeError(
            f"pool_padding must be at most half of pool_kernel {window}, got {border}: a window "
            "must meet the image"
        )
    return Pool("max" if kind == "max" else "avg", window, steps, border)


def once(make: Callable[..., T], *arguments: Any) -> T:
    """``make(*arguments)``, remembered in eager mode: spelling out costs as much as a launch."""
    if not torch.compiler.is_compiling():
        with contextlib.suppress(TypeError):  # a list is not hashable
            return cast(T, _made(make, *arguments))
    return make(*arguments)


@functools.lru_cache(maxsize=4096, typed=True)
def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)


def pair(name: str, value: Any, least: int) -> Pair:
    """(rows, columns) from one whole number or two."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    both = tuple(value) if several else (value,)
    if len(both) == 1:
        both *= 2
    if len(both) != 2 or not all(type(n) is int and n >= least for n in both):
        raise InputError(f"{name} must be one or two whole numbers >= {least}, got {value!r}")
    return both


def _sides(padding: Any, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise InputError(f'padding="same" needs stride 1, got {stride}')
        (top, bottom), (left, right) = (
            (d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2)
            for d, k in zip(dilation, kernel, strict=True)
        )
        return top, bottom, left, right
    if isinstance(padding, str):
        raise InputError(f'padding must be "same", "valid" or numbers, got {padding!r}')
    rows, columns = pair("padding", padding, 0)
    return rows, rows, columns, columns
