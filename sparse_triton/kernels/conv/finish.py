"""What follows the sums of a convolution, in Triton: epilogue, pool, stores."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.kernels.conv.stage import get, opaque, put
from sparse_triton.kernels.epilogue import finish


@triton.jit
def finish_tile(  # type: ignore[no-untyped-def]
    y, bias, residual, numbers, sums, shared, thread, rank, i_m, i_b, i_p, i_q, rows,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Finish the slots this thread holds; store them, or pool them through shared memory.

    numbers  rows of W of these slots, as ``held_rows`` gives them
    """
    LANES: tl.constexpr = SHAPE.lanes
    REPEAT: tl.constexpr = SHAPE.repeat
    PITCH: tl.constexpr = SHAPE.tile.pitch
    POOLED: tl.constexpr = SHAPE.pool is not None
    HELD: tl.constexpr = SHAPE.held
    lane, first = thread % LANES, thread // LANES * HELD
    p_0 = i_p * SHAPE.tile.rows.step + SHAPE.tile.rows.first
    q_0 = i_q * SHAPE.tile.columns.step + SHAPE.tile.columns.first
    p_pool = shared + lane * 4
    if POOLED:
        tl.debug_barrier()  # the tile lies in the same memory, or partials
    for i in tl.static_range(HELD):
        slot = first + i
        mine = slot < SHAPE.slots
        row = numbers[i // REPEAT]
        if SHAPE.tile.images > 1:
            point, image = lane, i_b * SHAPE.tile.images + slot % REPEAT
        else:
            point, image = lane + slot % REPEAT * LANES, i_b + lane * 0
        point = opaque(point)
        p, q = point // PITCH, point % PITCH
        mask = mine & (row >= 0) & (p < SHAPE.tile.rows.conv) & (q < SHAPE.tile.columns.conv)
        p += p_0
        q += q_0
        mask = mask & (p < SHAPE.tile.rows.pixels) & (q < SHAPE.tile.columns.pixels)
        mask = mask & (image < IMAGE.batch)
        if POOLED:
            mask = mask & (p >= 0) & (q >= 0)
        o = image.to(tl.int64) * IMAGE.pixels_stride + row.to(tl.int64) * IMAGE.pixel_strides[0]
        o += p * IMAGE.pixel_strides[1] + q * IMAGE.pixel_strides[2]
        value = finish(
            sums[i], row, o, mask, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION
        )  # fmt: skip
        if POOLED:
            put(p_pool + slot * (LANES * 4), value, mine)
        else:
            tl.store(y + o, value.to(y.dtype.element_ty), mask=mask)
    if POOLED:
        tl.debug_barrier()
        p_rows = first_row(rows, i_m, rank, SHAPE)
        pool_tile(y, p_rows, shared, thread, i_b, i_p, i_q, SHAPE, IMAGE)


@triton.jit
def first_row(rows, i_m, rank, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the numbers of the rows begin that a program finishes."""
    return rows + i_m * SHAPE.block_m + rank * (SHAPE.block_m // SHAPE.K_blocks)


@triton.jit
def held_rows(rows, thread, rank, i_m, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows of W whose slots this thread will hold; -1: padding, or none."""
    ROWS: tl.constexpr = SHAPE.held_rows
    p_rows = first_row(rows, i_m, rank, SHAPE)
    numbers = ()
    for i in tl.static_range(ROWS):
        place = thread // SHAPE.lanes * SHAPE.held // SHAPE.repeat + i
        mine = place * SHAPE.repeat < SHAPE.slots
        numbers += (tl.load(p_rows + place, mask=mine, other=-1),)  # type: ignore[assignment]
    return numbers


@triton.jit
def pool_tile(  # type: ignore[no-untyped-def]
    y, p_rows, shared, thread, i_b, i_p, i_q, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    """Windows over the finished pixels of the program's places, one output of Y a thread."""
    TILE_P: tl.constexpr = SHAPE.tile.rows.tile
    TILE_Q: tl.constexpr = SHAPE.tile.columns.tile
    PLACES: tl.constexpr = SHAPE.block_m // SHAPE.K_blocks
    OUTPUTS: tl.constexpr = PLACES * TILE_P * TILE_Q
    THREADS: tl.constexpr = SHAPE.threads
    PLACE_BYTES: tl.constexpr = SHAPE.repeat * SHAPE.lanes * 4
    for first in tl.static_range(0, OUTPUTS, THREADS):
        output = opaque(first + thread)
        place, at = output // (TILE_P * TILE_Q), output % (TILE_P * TILE_Q)
        t_p, t_q = at // TILE_Q, at % TILE_Q
        y_p, y_q = i_p * TILE_P + t_p, i_q * TILE_Q + t_q
        row = tl.load(p_rows + place, mask=output < OUTPUTS, other=-1)
        mask = (row >= 0) & (y_p < SHAPE.tile.rows.out) & (y_q < SHAPE.tile.columns.out)
        corner = t_p * (SHAPE.pool.stride[0] * SHAPE.tile.pitch) + t_q * SHAPE.pool.stride[1]
        window = tl.where(mask, shared + place * PLACE_BYTES + corner * 4, shared)
        value = pool_window(window, y_p, y_q, SHAPE)
        o = i_b.to(tl.int64) * IMAGE.y_stride + row.to(tl.int64) * IMAGE.y_strides[0]
        o += y_p * IMAGE.y_strides[1] + y_q * IMAGE.y_strides[2]
        tl.store(y + o, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def pool_window(window, y_p, y_q, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Max or mean of one window. Pixels of the padding are -inf, or zeros of the mean; NaN wins."""
    MAX: tl.constexpr = SHAPE.pool.kind == "max"
    ROWS: tl.constexpr = SHAPE.pool.kernel[0]
    COLUMNS: tl.constexpr = SHAPE.pool.kernel[1]
    PADDED: tl.constexpr = SHAPE.pool.padding[0] + SHAPE.pool.padding[1] > 0
    value = tl.where(y_p < 0, 0.0, float("-inf") if MAX else 0.0)
    for r in tl.static_range(ROWS):
        for s in tl.static_range(COLUMNS):
            pixel = get(window + (r * SHAPE.tile.pitch + s) * 4)
            if PADDED:
                p = y_p * SHAPE.pool.stride[0] - SHAPE.pool.padding[0] + r
                q = y_q * SHAPE.pool.stride[1] - SHAPE.pool.padding[1] + s
                inside = (p >= 0) & (p < SHAPE.tile.rows.pixels)
                inside = inside & (q >= 0) & (q < SHAPE.tile.columns.pixels)
                pixel = tl.where(inside, pixel, float("-inf") if MAX else 0.0)
            if MAX:
                value = tl.maximum(value, pixel, propagate_nan=tl.PropagateNan.ALL)
            else:
                value += pixel
    return value if MAX else value / (ROWS * COLUMNS)
