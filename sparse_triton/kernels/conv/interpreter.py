"""NumPy meaning of a convolution program: what the kernels stage, read and add, tile by tile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_triton.kernels.conv.lists import lists_for
from sparse_triton.kernels.conv.program import conv_programs
from sparse_triton.kernels.conv.shape import Shape, shape_of
from sparse_triton.kernels.conv.tile import Axis
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.interpreter import run_body
from sparse_triton.kernels.unrolled.ops import Load, Op
from sparse_triton.kernels.unrolled.schedule import Program
from sparse_triton.partition import NO_ROW

if TYPE_CHECKING:
    from sparse_triton.problem import ConvProblem

Float32 = NDArray[np.float32]


class Place(NamedTuple):
    """Images and first outputs of the convolution of one tile."""

    image: int
    p: int
    q: int


def staged(shape: Shape, X: Float32, at: Place, channel: int) -> Float32:
    """[cells] of the tile that begins at ``channel``; X is [batch, C, H, W].

    NaN between channels, where only a lane without an output may read.
    """
    tile = shape.tile
    cells = np.full(tile.bytes // 4, np.nan, dtype=np.float32)
    cells[tile.zeros :] = 0.0
    for c, image in itertools.product(range(tile.channels), range(tile.images)):
        start = c * tile.channel_cells + image * tile.plane
        plane = np.zeros(tile.plane, dtype=np.float32)
        if channel + c < X.shape[1] and at.image + image < X.shape[0]:
            picture = X[at.image + image, channel + c]
            rows, columns = _coordinates(tile.rows, at.p), _coordinates(tile.columns, at.q)
            plane = _window(picture, rows, columns)
        cells[start : start + tile.plane] = plane
    return cells


def _coordinates(axis: Axis, first: int) -> NDArray[np.int64]:
    """[phases, cells] input coordinate of each cell, outside of the input in the padding."""
    phase, cell = np.indices((axis.phases, axis.cells))
    return np.asarray((first + cell) * axis.stride + phase - axis.padding)


def _window(picture: Float32, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Float32:
    """[row phase][column phase][row][column] elements of one channel, zero outside."""
    h, w = rows[:, None, :, None], columns[None, :, None, :]
    inside = (h >= 0) & (h < picture.shape[0]) & (w >= 0) & (w < picture.shape[1])
    found = picture[np.clip(h, 0, picture.shape[0] - 1), np.clip(w, 0, picture.shape[1] - 1)]
    return np.where(inside, found, np.float32(0)).astype(np.float32).ravel()


def interpret(plan: Plan[ConvProblem], X: Float32) -> Float32:
    """[batch, M, P, Q]: the convolution before epilogue and pool; X is [batch, C, H, W]."""
    problem, shape = plan.problem, shape_of(plan)
    tile = shape.tile
    Y = np.full((problem.batch, problem.M, problem.P, problem.Q), np.nan, dtype=np.float32)
    blocks = _blocks(plan, shape)
    places = itertools.product(
        range(0, problem.batch, tile.images), range(tile.rows.tiles), range(tile.columns.tiles)
    )
    for image, i_p, i_q in places:
        p = i_p * tile.rows.step + tile.rows.first
        q = i_q * tile.columns.step + tile.columns.first
        at = Place(image, p, q)
        chunks = shape.K_blocks * tile.chunks
        cells = [staged(shape, X, at, n * tile.channels) for n in range(chunks)]
        for rows, block in blocks:
            sums = np.asarray(sum(part(cells) for part in block))
            for place in np.flatnonzero(rows != NO_ROW):
                _put(Y, shape, at, int(rows[place]), sums[place])
    return Y


def _put(Y: Float32, shape: Shape, at: Place, row: int, sums: Float32) -> None:
    """The [repeat, lanes] sums of one row to where they belong."""
    tile = shape.tile
    for n, lane in np.ndindex(sums.shape):
        point = lane if tile.images > 1 else lane + n * shape.lanes
        image = at.image + (n if tile.images > 1 else 0)
        p, q = point // tile.pitch, point % tile.pitch
        if p >= tile.rows.conv or q >= tile.columns.conv or image >= Y.shape[0]:
            continue
        if 0 <= at.p + p < Y.shape[2] and 0 <= at.q + q < Y.shape[3]:
            Y[image, row, at.p + p, at.q + q] = sums[n, lane]


Part = Callable[[list[Float32]], Float32]


def _blocks(plan: Plan[ConvProblem], shape: Shape) -> list[tuple[NDArray[np.int32], list[Part]]]:
    """(rows, parts) of each row block; a part makes [block_m, repeat, lanes] of staged cells."""
    parts = list(np.ndindex(shape.K_blocks, shape.Gy))
    if plan.config.kernel == "gather":
        packed = lists_for(plan)
        return [
            (rows, [_walked(packed.pairs, _runs(runs, k, g, shape), k, shape) for k, g in parts])
            for rows, runs in zip(packed.rows, packed.runs, strict=True)
        ]
    programs = conv_programs(plan)
    return [
        (rows, [_ran(programs, b * shape.parts + k * shape.Gy + g, k, shape) for k, g in parts])
        for b, rows in enumerate(programs[0].rows)
    ]


def _runs(runs: NDArray[np.int32], k: int, g: int, shape: Shape) -> NDArray[np.int32]:
    """[chunks, block_m, 2] of one group of one program."""
    return runs.reshape(shape.K_blocks, shape.tile.chunks, shape.Gy, shape.block_m, 2)[k, :, g]


def _points(shape: Shape) -> NDArray[np.int64]:
    """[repeat, lanes] cell of each point."""
    n, lane = np.indices((shape.repeat, shape.lanes))
    return np.asarray(n * shape.tile.step + lane)


def _walked(pairs: NDArray[np.int32], runs: NDArray[np.int32], rank: int, shape: Shape) -> Part:
    def part(cells: list[Float32]) -> Float32:
        sums = np.zeros((shape.block_m, shape.repeat, shape.lanes), dtype=np.float32)
        for chunk, place in np.ndindex(runs.shape[:2]):
            start, count = runs[chunk, place]
            here = cells[rank * shape.tile.chunks + chunk]
            for offset, bits in pairs[start : start + count]:
                sums[place] += bits.view(np.float32) * here[_points(shape) + offset // 4]
        return sums

    return part


def _ran(programs: list[Program], body: int, rank: int, shape: Shape) -> Part:
    def part(cells: list[Float32]) -> Float32:
        sums = np.zeros((shape.block_m, shape.repeat * shape.lanes), dtype=np.float32)
        for chunk, program in enumerate(programs):
            here = cells[rank * len(programs) + chunk]
            ops = program.whole_body(body)
            sums += run_body(ops, _rows(ops, here, shape), shape.block_m)
        return sums.reshape(shape.block_m, shape.repeat, shape.lanes)

    return part


def _rows(ops: tuple[Op, ...], cells: Float32, shape: Shape) -> Float32:
    """X as a body reads it: row ``k`` holds what the points read at cell ``k`` from their own."""
    loaded = [op.k for op in ops if isinstance(op, Load)]
    X = np.full((1 + max(loaded, default=0), shape.repeat * shape.lanes), np.nan, dtype=np.float32)
    for k in loaded:
        X[k] = cells[_points(shape).ravel() + k]
    return X
