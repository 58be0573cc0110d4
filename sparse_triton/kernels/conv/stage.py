"""Staging in Triton: from X in either layout and any dtype to the zero-padded float32 tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def stage(  # type: ignore[no-untyped-def]
    x, tile, thread, i_b, p_0, q_0, c_0,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr,
):  # fmt: skip
    """Channels ``c_0 ...`` of the tile whose convolution begins at output (p_0, q_0).

    NCHW: threads side by side take cells side by side, each thread the same cells of one channel
    after another, so that an element costs a load and a store. Channels-last: threads side by side
    take channels side by side.
    """
    if IMAGE.channels_last:
        _stage_channels(x, tile, thread, i_b, p_0, q_0, c_0, SHAPE, IMAGE)
    else:
        _stage_cells(x, tile, thread, i_b, p_0, q_0, c_0, SHAPE, IMAGE)


@triton.jit
def _stage_cells(x, tile, thread, i_b, p_0, q_0, c_0, SHAPE: tl.constexpr, IMAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    THREADS: tl.constexpr = SHAPE.threads
    CELLS: tl.constexpr = SHAPE.tile.images * SHAPE.tile.plane
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    CHANNEL_CELLS: tl.constexpr = SHAPE.tile.channel_cells
    PLANE: tl.constexpr = IMAGE.H * IMAGE.W
    AT_ONCE: tl.constexpr = THREADS // CELLS if THREADS > CELLS else 1
    for i in tl.static_range((CELLS + THREADS - 1) // THREADS):
        cell = thread % CELLS if AT_ONCE > 1 else thread + i * THREADS
        channel = thread // CELLS if AT_ONCE > 1 else thread * 0
        o_x, inside = element(cell, i_b, p_0, q_0, SHAPE, IMAGE)
        p_x = x + (c_0 + channel) * PLANE + o_x
        mine = (cell < CELLS) & (channel < AT_ONCE)
        p_tile = tile + (channel * CHANNEL_CELLS + cell) * 4
        for c in tl.static_range(0, CHANNELS, AT_ONCE):
            here = mine
            if c + AT_ONCE > CHANNELS:
                here = mine & (channel < CHANNELS - c)
            there = here & inside & (c_0 + channel + c < IMAGE.C)
            value = tl.load(p_x + c * PLANE, mask=there, other=0.0).to(tl.float32)
            put(p_tile + c * (CHANNEL_CELLS * 4), value, here)


@triton.jit
def _stage_channels(x, tile, thread, i_b, p_0, q_0, c_0, SHAPE: tl.constexpr, IMAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    THREADS: tl.constexpr = SHAPE.threads
    CELLS: tl.constexpr = SHAPE.tile.images * SHAPE.tile.plane
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    CHANNEL_CELLS: tl.constexpr = SHAPE.tile.channel_cells
    SIDE: tl.constexpr = CHANNELS if CHANNELS < THREADS else THREADS
    AT_ONCE: tl.constexpr = THREADS // SIDE
    for c in tl.static_range(0, CHANNELS, SIDE):
        channel = thread % SIDE + c
        for first in tl.static_range(0, CELLS, AT_ONCE):
            cell = thread // SIDE + first
            o_x, inside = element(cell, i_b, p_0, q_0, SHAPE, IMAGE)
            here = (channel < CHANNELS) & (cell < CELLS) & (thread < AT_ONCE * SIDE)
            there = here & inside & (c_0 + channel < IMAGE.C)
            value = tl.load(x + o_x + c_0 + channel, mask=there, other=0.0).to(tl.float32)
            put(tile + (channel * CHANNEL_CELLS + cell) * 4, value, here)


@triton.jit
def element(cell, i_b, p_0, q_0, SHAPE: tl.constexpr, IMAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(offset in X of channel 0, whether it lies inside) of a cell, counted from a tile's image."""
    PITCH: tl.constexpr = SHAPE.tile.pitch
    ROWS: tl.constexpr = SHAPE.tile.rows.cells
    ROW_PHASES: tl.constexpr = SHAPE.tile.rows.phases
    COLUMN_PHASES: tl.constexpr = SHAPE.tile.columns.phases
    image = i_b + cell // SHAPE.tile.plane
    column, rest = cell % PITCH, cell // PITCH
    row, rest = rest % ROWS, rest // ROWS
    h = (p_0 + row) * SHAPE.tile.rows.stride - SHAPE.tile.rows.padding
    w = (q_0 + column) * SHAPE.tile.columns.stride - SHAPE.tile.columns.padding
    if COLUMN_PHASES > 1:
        w += rest % COLUMN_PHASES
    if ROW_PHASES > 1:
        h += rest // COLUMN_PHASES % ROW_PHASES
    inside = (h >= 0) & (h < IMAGE.H) & (w >= 0) & (w < IMAGE.W) & (image < IMAGE.batch)
    o_image = image.to(tl.int64) * (IMAGE.C * IMAGE.H * IMAGE.W)
    return o_image + h * IMAGE.x_strides[1] + w * IMAGE.x_strides[2], inside


@triton.jit
def put(address, value, mask):  # type: ignore[no-untyped-def]
    """Store to shared memory where the mask holds."""
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $3, 0; @p st.shared.f32 [$1], $2; mov.b32 $0, 0; }",
        "=r,r,f,r",
        [address, value, mask.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def get(address):  # type: ignore[no-untyped-def]
    """Load a float32 from shared memory."""
    return tl.inline_asm_elementwise(
        "ld.shared.f32 $0, [$1];", "=f,r", [address], dtype=tl.float32, is_pure=False, pack=1
    )
