"""Staging without registers, in PTX: float32 X in NCHW goes from memory to the tile by itself.

A thread copies one cell of one channel after another (``cp.async``), all of them in flight
together; where there is no pixel or no channel, zeros are written instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import Asm, Operands
from sparse_triton.kernels.conv.shape import Image, Shape

FIRST_ARCH_WITH_COPY = 80


def can_copy(x_dtype: str, x_layout: str, arch: int) -> bool:
    """Whether X lies in memory as it will in the tile."""
    return x_dtype == "float32" and x_layout == "row" and arch >= FIRST_ARCH_WITH_COPY


def emit_copy(shape: Shape, image: Image) -> Asm:
    """Inputs, in order: shared address of the first cell, pointer to its pixel, 4 or 0: bytes to
    read, number of channels from here to the end of the tile (0: none is this thread's) and of X.
    The output means nothing."""
    operands = Operands()
    done = operands.new("=r")
    tile, x, size, room, have = (operands.new(c) for c in "rlrrr")
    lines = [
        ".reg .pred mine, here, there;",
        ".reg .b32 bytes;",
        f"setp.gt.s32 mine, {room}, 0;",
        *_copies(shape, image, tile, x, size, room, have),
        f"mov.b32 {done}, 0;",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _copies(
    shape: Shape, image: Image, tile: str, x: str, size: str, room: str, have: str
) -> Iterator[str]:
    channels, at_once = shape.tile.channels, shape.channels_at_once
    exact = shape.K_blocks * shape.tile.chunks * channels == image.C
    for i in range(ceil_div(channels, at_once)):
        first, mine, bytes_ = i * at_once, "mine", size
        if first + at_once > channels:  # not every thread has a channel in the last step
            yield f"setp.gt.s32 here, {room}, {first};"
            mine = "here"
        if not exact:
            yield f"setp.gt.s32 there, {have}, {first};"
            yield f"selp.b32 bytes, {size}, 0, there;"
            bytes_ = "bytes"
        to = f"{tile}+{first * shape.tile.channel_cells * 4}"
        source = f"{x}+{first * image.H * image.W * 4}"
        yield f"@{mine} cp.async.ca.shared.global [{to}], [{source}], 4, {bytes_};"
