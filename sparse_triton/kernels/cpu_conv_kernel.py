"""The numba kernel of family ``cpu`` for convolutions. Importing it compiles, or loads from disk.

A task is a few rows of one image's pixels and one row block of W. The part of the image that those
pixels see, its *slab*, is copied once into the worker's scratch memory: padded with zeros, and for
strides above 1 taken apart by phase (pixels ``stride`` apart become neighbours). Then what a tap
meets at consecutive pixels lies side by side, wherever it starts, and the product is the same loop
as in SpMM with the tap's offset in the place of the column: no matrix of patches is written.

Pixels are numbered along the slab's rows, which are a little longer than Y's: results between the
end of one row of Y and the start of the next are computed and dropped.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange  # type: ignore[attr-defined]

from sparse_triton.kernels.cpu_conv_finish import (
    add_segments,
    pool_rows,
    store_segments,
    store_turned,
)
from sparse_triton.kernels.cpu_epilogue import LINE, activate
from sparse_triton.kernels.cpu_tile import MAX_WIDTH, multiply, padded_width, sources
from sparse_triton.kernels.cpu_vector import copy_every_other, copy_line, floats, take_ticket

HALF_LINE = LINE // 2


@njit(nogil=True)
def _pack_row(to, width, start, stop, source, step, x_w):  # type: ignore[no-untyped-def]
    """to[j] = source[j * step] for start <= j < stop, else 0; elements are x_w apart.

    Rows are short: what is left after whole vectors costs more than they do.
    """
    out = carray(floats(to), (width,))
    for j in range(start):
        out[j] = 0.0
    j = start
    if x_w == 1 and step == 1:
        while j + LINE <= stop:
            copy_line(to + 4 * j, source + 4 * j)
            j += LINE
    elif x_w == 1 and step == 2:
        while j + HALF_LINE < stop:
            copy_every_other(to + 4 * j, source + 8 * j)
            j += HALF_LINE
    row = carray(floats(source), (stop * step * x_w,))
    while j < stop:
        out[j] = row[j * step * x_w]
        j += 1
    for j in range(stop, width):
        out[j] = 0.0


@njit(nogil=True)
def _pack_slab(  # type: ignore[no-untyped-def]
    slab, rows, width, x, first_row, phases, C, H, W, x_c, x_h, x_w, step_h, step_w, top, left
):  # fmt: skip
    """slab [C, phases, rows, width] from one image; ``first_row`` counts rows of pixels.

    Channels go by lines, so that each line of a channels-last image is fetched once.
    """
    count = len(phases)
    for line in range(0, C, LINE):
        for f in range(count):
            first = phases[f, 1] - left  # column of the image at j = 0; negative in the padding
            start = min(width, max(0, (step_w - 1 - first) // step_w))
            stop = max(start, min(width, (W - 1 - first) // step_w + 1))
            for i in range(rows):
                h = (first_row + i) * step_h + phases[f, 0] - top
                inside = 0 <= h < H
                source = x + 4 * (h * x_h + first * x_w)
                for c in range(line, min(line + LINE, C)):
                    to = slab + 4 * ((c * count + f) * rows + i) * width
                    if inside:
                        _pack_row(to, width, start, stop, source + 4 * c * x_c, step_w, x_w)
                    else:
                        _pack_row(to, width, 0, 0, source, step_w, x_w)


@njit(nogil=True)
def _cut(segments, first, width, row_width, Q):  # type: ignore[no-untyped-def]
    """How many, with (place, pixel of Y, length) of the pixels ``first`` .. ``first + width``.

    Pixels count along the slab's rows, in Y along rows of Q.
    """
    count, j = 0, 0
    while j < width:
        p, q = (first + j) // row_width, (first + j) % row_width
        if q < Q:
            length = min(Q - q, width - j)
            segments[count, 0], segments[count, 1], segments[count, 2] = j, p * Q + q, length
            count += 1
        j += row_width - q
    return count


@njit(nogil=True)
def _run_block(  # type: ignore[no-untyped-def]
    slab, offsets, values, starts, rows, sums, block, groups, width, padded,
    y, y_n, bias, residual, image, segments, count, maps, map_width, activation,
):  # fmt: skip
    """One row block times the register tile at ``slab``, group by group.

    y, residual  address of the tile's first pixel in row 0 of the image, or 0; ``image`` elements
                 between rows, y_n between pixels of y
    maps         with a pool: where the finished pixels are kept, ``map_width`` a row; else 0
    """
    block_m = rows.shape[1]
    turned = y_n != 1 and maps == 0
    room = padded if groups > 1 or turned else 0  # else every row reuses one accumulator
    for g in range(groups):
        for i in range(block_m):
            row = rows[block, i]
            if row < 0:
                break
            at = (block * groups + g) * block_m + i
            out = sums + 4 * i * room
            multiply(
                padded, slab, 4, offsets, values, starts[at], starts[at + 1], out, g,
            )  # fmt: skip
            if g < groups - 1:
                continue
            if bias != 0:
                add = carray(floats(bias + 4 * row), (1,))[0]
                a = carray(floats(out), (width,))
                for j in range(width):
                    a[j] += add
            if residual != 0:
                add_segments(out, residual + 4 * row * image, segments, count)
            if activation != 0:
                activate(carray(floats(out), (width,)), activation)
            if maps != 0:
                to = carray(floats(maps + 4 * i * map_width), (width,))
                a = carray(floats(out), (width,))
                for j in range(width):
                    to[j] = a[j]
            elif not turned:
                store_segments(out, y + 4 * row * image, segments, count)
    if turned:
        store_turned(sums, room, rows, block, y, y_n, segments, count)


@njit(nogil=True)
def _work(counter, x, y, bias, residual, offsets, values, starts, rows, phases, shape):  # type: ignore[no-untyped-def]
    """Take tasks until none is left; a task is (image, tile of rows, row block), blocks fastest.

    ``shape`` as ``cpu_conv.CpuConvKernel`` lays it out.
    """
    batch, C, H, W, M, P, Q = shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6]
    x_c, x_h, x_w, step_h, step_w = shape[7], shape[8], shape[9], shape[10], shape[11]
    top, left, groups, activation = shape[12], shape[13], shape[14], shape[15]
    tile_rows, slab_rows, slab_width, map_rows = shape[16], shape[17], shape[18], shape[19]
    y_h, y_w, y_n, pool = shape[20], shape[21], shape[22], shape[23:30]
    pooling = pool[0] != 0
    blocks, block_m = rows.shape
    tiles = (y_h + tile_rows - 1) // tile_rows
    slab_size = C * len(phases) * slab_rows * slab_width + MAX_WIDTH + LINE
    map_width = map_rows * slab_width if pooling else 0
    kept = block_m if groups > 1 or y_n != 1 else 1
    line_width = slab_width + y_w if pooling else 0
    scratch = np.empty(
        slab_size + kept * MAX_WIDTH + block_m * map_width + line_width + 2 * LINE, np.float32
    )
    slab = (scratch.ctypes.data + 63) // 64 * 64
    sums = (slab + 4 * slab_size + 63) // 64 * 64
    maps = sums + 4 * kept * MAX_WIDTH if pooling else 0
    line = maps + 4 * block_m * map_width
    tail = carray(floats(slab + 4 * (slab_size - MAX_WIDTH - LINE)), (MAX_WIDTH + LINE,))
    for j in range(MAX_WIDTH + LINE):
        tail[j] = 0.0
    segments = np.empty((MAX_WIDTH, 3), np.int64)
    packed = -1
    while True:
        task = take_ticket(counter.ctypes.data)
        if task >= batch * tiles * blocks:
            scratch[0] = 0.0  # numba frees an array after its last use, whoever has its address
            return
        block, tile, b = task % blocks, task // blocks % tiles, task // blocks // tiles
        first, last = tile * tile_rows, min((tile + 1) * tile_rows, y_h)
        p, stop = first, last
        if pooling:
            p = min(P, max(0, first * pool[3] - pool[5]))
            stop = max(p, min(P, (last - 1) * pool[3] - pool[5] + pool[1]))
        if packed != b * tiles + tile:
            packed = b * tiles + tile
            _pack_slab(
                slab, slab_rows, slab_width, x + 4 * b * C * H * W, p, phases, C, H, W,
                x_c, x_h, x_w, step_h, step_w, top, left,
            )  # fmt: skip
        length = (stop - p - 1) * slab_width + Q if stop > p else 0
        image = y + 4 * b * M * y_h * y_w
        plus = residual + 4 * (b * M * P + p) * Q if residual != 0 else 0
        for n in range(0, length, MAX_WIDTH):
            width = min(MAX_WIDTH, length - n)
            _run_block(
                slab + 4 * n, offsets.ctypes.data, values.ctypes.data, starts, rows, sums, block,
                groups, width, padded_width(width), image + 4 * p * Q * y_n, y_n, bias, plus,
                P * Q, segments, _cut(segments, n, width, slab_width, Q),
                maps + 4 * n if pooling else 0, map_width, activation,
            )  # fmt: skip
        if pooling:
            for i in range(block_m):
                row = rows[block, i]
                if row >= 0:
                    pool_rows(
                        maps + 4 * i * map_width, slab_width, p, P, Q,
                        image + 4 * row * (y_h * y_w if y_n == 1 else 1), first, last, y_w, y_n,
                        pool, line,
                    )  # fmt: skip


_ARRAYS = "i4[::1], f4[::1], i8[::1], i4[:, ::1], i8[:, ::1], i8[::1]"


def _serial(digest: str):  # type: ignore[no-untyped-def]
    @njit(f"void(i8, i8, i8, i8, {_ARRAYS})", nogil=True, cache=True)
    def conv_serial(x, y, bias, residual, offsets, values, starts, rows, phases, shape):  # type: ignore[no-untyped-def]
        """``conv_parallel`` in the calling thread."""
        _ = digest  # a closure's values are part of the cache key
        _work(
            np.zeros(1, np.int64), x, y, bias, residual, offsets, values, starts, rows, phases,
            shape,
        )  # fmt: skip

    return conv_serial


def _parallel(digest: str):  # type: ignore[no-untyped-def]
    @njit(f"void(i8, i8, i8, i8, i8, {_ARRAYS})", nogil=True, cache=True, parallel=True)
    def conv_parallel(  # type: ignore[no-untyped-def]
        workers, x, y, bias, residual, offsets, values, starts, rows, phases, shape
    ):  # fmt: skip
        """``workers`` threads share the tasks; arguments as ``cpu_conv`` lays them out."""
        _ = digest
        counter = np.zeros(1, np.int64)
        for _worker in prange(workers):
            _work(
                counter, x, y, bias, residual, offsets, values, starts, rows, phases, shape
            )  # fmt: skip

    return conv_parallel


_DIGEST = sources("cpu_conv_kernel.py", "cpu_conv_finish.py")
conv_serial = _serial(_DIGEST)
conv_parallel = _parallel(_DIGEST)
