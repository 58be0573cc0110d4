"""Staging in Triton: from X in either layout and any dtype to the zero-padded float32 tile."""

from __future__ import annotations

import triton
import triton.language as tl

READ = "{{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b{0} $0, 0; @p ld.global.b{0} $0, [$1]; }}"
READ_16, READ_32 = (tl.constexpr(READ.format(bits)) for bits in (16, 32))


@triton.jit
def load_tile(  # type: ignore[no-untyped-def]
    x, thread, i_b, p_0, q_0, c_0, PIECE: tl.constexpr, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    """A piece of what this thread stages of channels ``c_0 ...`` of the tile whose convolution
    begins at output (p_0, q_0), zeros outside of the image: a tuple for ``put_tile``. A piece is
    what is in flight at a time.

    NCHW: threads side by side take cells side by side, each thread the same cells of one channel
    after another, so that an element costs a load and a store. Channels-last: threads side by side
    take channels side by side.
    """
    if IMAGE.channels_last:
        values = _load_channels(x, thread, i_b, p_0, q_0, c_0, PIECE, SHAPE, IMAGE)
    else:
        values = _load_cells(x, thread, i_b, p_0, q_0, c_0, PIECE, SHAPE, IMAGE)
    return values


@triton.jit
def put_tile(  # type: ignore[no-untyped-def]
    tile, thread, values, PIECE: tl.constexpr, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    """Store what ``load_tile`` loaded to the tile at shared address ``tile``."""
    if IMAGE.channels_last:
        _put_channels(tile, thread, values, PIECE, SHAPE)
    else:
        _put_cells(tile, thread, values, PIECE, SHAPE)


@triton.jit
def _load_cells(  # type: ignore[no-untyped-def]
    x, thread, i_b, p_0, q_0, c_0, PIECE: tl.constexpr, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    SIZE: tl.constexpr = SHAPE.piece
    THREADS: tl.constexpr = SHAPE.threads
    CELLS: tl.constexpr = SHAPE.tile.cells
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    AT_ONCE: tl.constexpr = SHAPE.channels_at_once
    STEPS: tl.constexpr = (CHANNELS + AT_ONCE - 1) // AT_ONCE
    PLANE: tl.constexpr = IMAGE.H * IMAGE.W
    values = ()
    for first in tl.static_range(0, CELLS, THREADS):
        cell, channel = cell_and_channel(thread, first, SHAPE)
        o_x, inside = element(cell, i_b, p_0, q_0, SHAPE, IMAGE)
        inside = inside & (cell < CELLS) & (channel < AT_ONCE)
        p_x = x + (c_0 + channel) * PLANE + o_x
        for c in tl.static_range(0, CHANNELS, AT_ONCE):
            if (first // THREADS * STEPS + c // AT_ONCE) // SIZE == PIECE:
                there = inside & (channel < CHANNELS - c) & (c_0 + channel + c < IMAGE.C)
                values += (fetch(p_x + c * PLANE, there),)  # type: ignore[assignment]
    return values


@triton.jit
def _put_cells(tile, thread, values, PIECE: tl.constexpr, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    SIZE: tl.constexpr = SHAPE.piece
    THREADS: tl.constexpr = SHAPE.threads
    CELLS: tl.constexpr = SHAPE.tile.cells
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    CHANNEL_BYTES: tl.constexpr = SHAPE.tile.channel_cells * 4
    AT_ONCE: tl.constexpr = SHAPE.channels_at_once
    STEPS: tl.constexpr = (CHANNELS + AT_ONCE - 1) // AT_ONCE
    for first in tl.static_range(0, CELLS, THREADS):
        cell, channel = cell_and_channel(thread, first, SHAPE)
        p_tile = tile + channel * CHANNEL_BYTES + cell * 4
        mine = (cell < CELLS) & (channel < AT_ONCE)
        for c in tl.static_range(0, CHANNELS, AT_ONCE):
            if (first // THREADS * STEPS + c // AT_ONCE) // SIZE == PIECE:
                value = values[(first // THREADS * STEPS + c // AT_ONCE) % SIZE]
                put(p_tile + c * CHANNEL_BYTES, value, mine & (channel < CHANNELS - c))


@triton.jit
def _load_channels(  # type: ignore[no-untyped-def]
    x, thread, i_b, p_0, q_0, c_0, PIECE: tl.constexpr, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    SIZE: tl.constexpr = SHAPE.piece
    CELLS: tl.constexpr = SHAPE.tile.cells
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    SIDE: tl.constexpr = SHAPE.channels_at_once
    AT_ONCE: tl.constexpr = SHAPE.threads // SIDE
    STEPS: tl.constexpr = (CELLS + AT_ONCE - 1) // AT_ONCE
    values = ()
    for c in tl.static_range(0, CHANNELS, SIDE):
        channel = thread % SIDE + c
        for first in tl.static_range(0, CELLS, AT_ONCE):
            if (c // SIDE * STEPS + first // AT_ONCE) // SIZE == PIECE:
                cell = thread // SIDE + first
                o_x, inside = element(cell, i_b, p_0, q_0, SHAPE, IMAGE)
                there = inside & (cell < CELLS) & (channel < CHANNELS)
                there = there & (c_0 + channel < IMAGE.C)
                p_x = x + o_x + c_0 + channel
                values += (fetch(p_x, there),)  # type: ignore[assignment]
    return values


@triton.jit
def _put_channels(tile, thread, values, PIECE: tl.constexpr, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    SIZE: tl.constexpr = SHAPE.piece
    CELLS: tl.constexpr = SHAPE.tile.cells
    CHANNELS: tl.constexpr = SHAPE.tile.channels
    CHANNEL_BYTES: tl.constexpr = SHAPE.tile.channel_cells * 4
    SIDE: tl.constexpr = SHAPE.channels_at_once
    AT_ONCE: tl.constexpr = SHAPE.threads // SIDE
    STEPS: tl.constexpr = (CELLS + AT_ONCE - 1) // AT_ONCE
    for c in tl.static_range(0, CHANNELS, SIDE):
        channel = thread % SIDE + c
        for first in tl.static_range(0, CELLS, AT_ONCE):
            if (c // SIDE * STEPS + first // AT_ONCE) // SIZE == PIECE:
                cell = thread // SIDE + first
                here = (channel < CHANNELS) & (cell < CELLS) & (thread < AT_ONCE * SIDE)
                value = values[(c // SIDE * STEPS + first // AT_ONCE) % SIZE]
                put(tile + channel * CHANNEL_BYTES + cell * 4, value, here)


@triton.jit
def put_zeros(tile, thread, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Zeros behind the tile: what a pair without a product reads."""
    SPAN: tl.constexpr = SHAPE.tile.span
    THREADS: tl.constexpr = SHAPE.threads
    for first in tl.static_range(0, SPAN, THREADS):
        cell = thread + first
        put(tile + (SHAPE.tile.zeros + cell) * 4, thread.to(tl.float32) * 0.0, cell < SPAN)


@triton.jit
def cell_and_channel(thread, first, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of small images several channels are staged side by side."""
    CELLS: tl.constexpr = SHAPE.tile.cells
    if SHAPE.channels_at_once > 1:
        cell, channel = thread % CELLS, thread // CELLS
    else:
        cell, channel = thread + first, thread * 0
    return cell, channel


@triton.jit
def element(cell, i_b, p_0, q_0, SHAPE: tl.constexpr, IMAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(offset in X of channel 0, whether it lies inside) of a cell, counted from a tile's image."""
    PITCH: tl.constexpr = SHAPE.tile.pitch
    ROWS: tl.constexpr = SHAPE.tile.rows.cells
    ROW_PHASES: tl.constexpr = SHAPE.tile.rows.phases
    COLUMN_PHASES: tl.constexpr = SHAPE.tile.columns.phases
    cell = opaque(cell)
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
def opaque(x):  # type: ignore[no-untyped-def]
    """x, of which the compiler knows nothing: where it knows that 16 bits are enough it adds in
    pairs (``add.s16x2``), and ptxas 12.8 loses the constants of such additions."""
    return tl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def fetch(p_x, mask):  # type: ignore[no-untyped-def]
    """Load an element of X, zero where the mask does not hold. In PTX, because Triton looks at what
    is around each of its own loads, which takes the square of their number: seconds."""
    WIDE: tl.constexpr = p_x.dtype.element_ty.primitive_bitwidth == 32
    value = tl.inline_asm_elementwise(
        READ_32 if WIDE else READ_16, "=&r,l,r" if WIDE else "=&h,l,r",
        [p_x.to(tl.int64), mask.to(tl.int32)], dtype=tl.int32 if WIDE else tl.int16,
        is_pure=False, pack=1,
    )  # fmt: skip
    return value.to(p_x.dtype.element_ty, bitcast=True).to(tl.float32)


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
