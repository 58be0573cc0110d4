"""The Triton kernels of both convolution families: stage, multiply, exchange, finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.conv.exchange import emit_exchange, emit_window
from sparse_triton.kernels.conv.finish import finish_tile, held_rows
from sparse_triton.kernels.conv.lists import lists_for
from sparse_triton.kernels.conv.program import conv_programs, emit_program
from sparse_triton.kernels.conv.shape import Shape, image_of, shape_of
from sparse_triton.kernels.conv.stage import load_tile, put_tile, put_zeros
from sparse_triton.kernels.conv.walk import Walk, emit_walk
from sparse_triton.kernels.epilogue import f32s
from sparse_triton.kernels.family import Plan

if TYPE_CHECKING:
    from typing import Any

    from sparse_triton.problem import ConvProblem


@triton.jit
def conv_gather(  # type: ignore[no-untyped-def]
    x, y, bias, residual, pairs, runs, rows,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr, FASTEST: tl.constexpr, DEPENDENT: tl.constexpr,
    SHARED: tl.constexpr, SHARED_CONSTRAINTS: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    EXCHANGE: tl.constexpr, EXCHANGE_CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    REPEAT: tl.constexpr = SHAPE.repeat
    CHUNKS: tl.constexpr = SHAPE.tile.chunks
    EARLY: tl.constexpr = SHAPE.held_rows <= 4  # registers for an answer that would be waited for
    STACK: tl.constexpr = SHAPE.stack
    BATCH: tl.constexpr = SHAPE.batch
    if DEPENDENT:
        gdc_launch_dependents()
    i_m, i_p, i_q, i_b, thread, rank = coordinates(SHAPE, FASTEST)
    shared = window(thread, SHARED, SHARED_CONSTRAINTS)
    lane, in_batch = thread % SHAPE.lanes, thread % BATCH
    p_mine = shared + SHAPE.pairs_from + thread * 8
    operands = (p_mine, p_mine - in_batch * 8, in_batch, shared + lane * 4)
    lists = SHAPE.Gy * SHAPE.block_m
    p_runs = runs + (i_m * SHAPE.K_blocks + rank) * CHUNKS * lists + thread // SHAPE.lanes * STACK
    sums = (tl.zeros_like(thread).to(tl.float32),) * (STACK * REPEAT)
    if EARLY:
        numbers = held_rows(rows, thread, rank, i_m, SHAPE)
    # Two lists ahead: where one lies, and the first pairs of the one before.
    this_list = list_at(pairs, run_of(p_runs, 0, lists, SHAPE), in_batch)
    run = run_of(p_runs, 1, lists, SHAPE)
    if DEPENDENT:
        gdc_wait()
    values = load_chunk(x, thread, rank, i_b, i_p, i_q, 0, 0, SHAPE, IMAGE)
    put_zeros(shared, thread, SHAPE)
    for chunk in tl.range(0, CHUNKS, num_stages=1):
        values = put_chunk(x, shared, thread, rank, i_b, i_p, i_q, values, chunk, SHAPE, IMAGE)
        walked = ()
        for i in tl.static_range(STACK):
            next_list = list_at(pairs, run, in_batch)
            run = run_of(p_runs, chunk * STACK + i + 2, lists, SHAPE)
            walked += tl.inline_asm_elementwise(
                ASM, CONSTRAINTS, this_list + operands + sums[i * REPEAT : (i + 1) * REPEAT],
                dtype=f32s(REPEAT), is_pure=False, pack=1,
            )  # fmt: skip
            this_list = next_list
        sums = walked
        values = next_chunk(x, thread, rank, i_b, i_p, i_q, values, chunk, SHAPE, IMAGE)
    sums = exchanged(shared, thread, rank, sums, SHAPE, EXCHANGE, EXCHANGE_CONSTRAINTS)
    if not EARLY:
        numbers = held_rows(rows, thread, rank, i_m, SHAPE)
    finish_tile(
        y, bias, residual, numbers, sums, shared, thread, rank, i_m, i_b, i_p, i_q, rows,
        SHAPE, IMAGE, HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
    )  # fmt: skip


@triton.jit
def run_of(p_runs, i, lists, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(first pair, length) of a thread's i-th list; empty past its last."""
    STACK: tl.constexpr = SHAPE.stack
    there = (p_runs.to(tl.int64) != 0) & (i < SHAPE.tile.chunks * STACK)
    return tl.load(p_runs + i // STACK * lists + i % STACK, mask=there, other=0)


@triton.jit
def list_at(pairs, run, in_batch):  # type: ignore[no-untyped-def]
    """(pointer to this lane's first pair, that pair, length) of a list."""
    p_pair = pairs + (run & 0xFFFFFFFF) + in_batch
    length = (run >> 32).to(tl.int32)
    return p_pair.to(tl.int64), tl.load(p_pair, mask=in_batch < length, other=0), length


@triton.jit
def conv_unrolled(  # type: ignore[no-untyped-def]
    x, y, bias, residual, rows,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr, FASTEST: tl.constexpr, DEPENDENT: tl.constexpr,
    SHARED: tl.constexpr, SHARED_CONSTRAINTS: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    EXCHANGE: tl.constexpr, EXCHANGE_CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    SUMS: tl.constexpr = SHAPE.sums
    CHUNKS: tl.constexpr = SHAPE.tile.chunks
    EARLY: tl.constexpr = SHAPE.held_rows <= 4  # registers for an answer that would be waited for
    if DEPENDENT:
        gdc_launch_dependents()
    i_m, i_p, i_q, i_b, thread, rank = coordinates(SHAPE, FASTEST)
    shared = window(thread, SHARED, SHARED_CONSTRAINTS)
    sums = (tl.zeros_like(thread).to(tl.float32),) * SUMS
    if EARLY:
        numbers = held_rows(rows, thread, rank, i_m, SHAPE)
    operands = (
        (i_m * SHAPE.K_blocks + rank) * SHAPE.Gy + thread // SHAPE.lanes,
        shared + thread % SHAPE.lanes * 4,
        thread // 128 % SHAPE.starts,  # neighbouring warps are on different schedulers
    )
    if DEPENDENT:
        gdc_wait()
    values = load_chunk(x, thread, rank, i_b, i_p, i_q, 0, 0, SHAPE, IMAGE)
    for chunk in tl.static_range(CHUNKS):
        values = put_chunk(x, shared, thread, rank, i_b, i_p, i_q, values, chunk, SHAPE, IMAGE)
        sums = tl.inline_asm_elementwise(
            ASM[chunk], CONSTRAINTS, operands + sums, dtype=f32s(SUMS), is_pure=False, pack=1
        )
        values = next_chunk(x, thread, rank, i_b, i_p, i_q, values, chunk, SHAPE, IMAGE)
    sums = exchanged(shared, thread, rank, sums, SHAPE, EXCHANGE, EXCHANGE_CONSTRAINTS)
    if not EARLY:
        numbers = held_rows(rows, thread, rank, i_m, SHAPE)
    finish_tile(
        y, bias, residual, numbers, sums, shared, thread, rank, i_m, i_b, i_p, i_q, rows,
        SHAPE, IMAGE, HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
    )  # fmt: skip


@triton.jit
def coordinates(SHAPE: tl.constexpr, FASTEST: tl.constexpr):  # type: ignore[no-untyped-def]
    """(row block, tile row, tile column, tile image, thread of the program, rank in the cluster).

    One tensor axis, one thread an element: any other layout would instantiate the texts twice.
    """
    THREADS: tl.constexpr = SHAPE.threads
    across = SHAPE.tile.columns.tiles
    i_x, rank = tl.program_id(0) // SHAPE.K_blocks, tl.program_id(0) % SHAPE.K_blocks
    i_m = tl.program_id(1) if FASTEST == "columns" else i_x
    i_n = i_x if FASTEST == "columns" else tl.program_id(1)
    return i_m, i_n // across, i_n % across, tl.program_id(2), tl.arange(0, THREADS), rank


@triton.jit
def window(thread, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The shared address of the program's memory, in every thread."""
    return tl.inline_asm_elementwise(
        ASM, CONSTRAINTS, [thread], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def load_chunk(  # type: ignore[no-untyped-def]
    x, thread, rank, i_b, i_p, i_q, chunk, PIECE: tl.constexpr,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr,
):  # fmt: skip
    """A piece of one of the program's chunks of channels, into registers."""
    p_0 = i_p * SHAPE.tile.rows.step + SHAPE.tile.rows.first
    q_0 = i_q * SHAPE.tile.columns.step + SHAPE.tile.columns.first
    c_0 = (rank * SHAPE.tile.chunks + chunk) * SHAPE.tile.channels
    return load_tile(x, thread, i_b * SHAPE.tile.images, p_0, q_0, c_0, PIECE, SHAPE, IMAGE)


@triton.jit
def put_chunk(  # type: ignore[no-untyped-def]
    x, shared, thread, rank, i_b, i_p, i_q, values, chunk,
    SHAPE: tl.constexpr, IMAGE: tl.constexpr,
):  # fmt: skip
    """The chunk into the tile: ``values`` first, then piece by piece. The first piece of the next
    one, if registers hold it while this one is used; past the last chunk nobody needs it."""
    STAGING: tl.constexpr = SHAPE.staging
    SIZE: tl.constexpr = SHAPE.piece
    put_tile(shared, thread, values, 0, SHAPE, IMAGE)
    for i in tl.static_range(SIZE, STAGING, SIZE):
        piece = load_chunk(x, thread, rank, i_b, i_p, i_q, chunk, i // SIZE, SHAPE, IMAGE)
        put_tile(shared, thread, piece, i // SIZE, SHAPE, IMAGE)
    if SHAPE.ahead:
        values = load_chunk(x, thread, rank, i_b, i_p, i_q, chunk + 1, 0, SHAPE, IMAGE)
    tl.debug_barrier()
    return values


@triton.jit
def next_chunk(  # type: ignore[no-untyped-def]
    x, thread, rank, i_b, i_p, i_q, values, chunk, SHAPE: tl.constexpr, IMAGE: tl.constexpr
):  # fmt: skip
    """The tile has been used: load the next chunk's first piece, if registers do not hold it."""
    CHUNKS: tl.constexpr = SHAPE.tile.chunks
    if CHUNKS > 1:
        tl.debug_barrier()
        if not SHAPE.ahead:
            values = load_chunk(x, thread, rank, i_b, i_p, i_q, chunk + 1, 0, SHAPE, IMAGE)
    return values


@triton.jit
def exchanged(  # type: ignore[no-untyped-def]
    shared, thread, rank, sums, SHAPE: tl.constexpr, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr
):  # fmt: skip
    """The sums of all parts: ``SHAPE.held`` slots a thread."""
    HELD: tl.constexpr = SHAPE.held
    if SHAPE.parts > 1:
        sums = tl.inline_asm_elementwise(
            ASM, CONSTRAINTS, (shared, thread, rank + thread * 0) + sums,  # noqa: RUF005
            dtype=f32s(HELD), is_pure=False, pack=1,
        )  # fmt: skip
    return sums


def conv_source(plan: Plan[ConvProblem]) -> KernelSource:
    """Kernel ``y = pool(epilogue(conv(x, W)))``, implicit im2col through staged tiles of x.

    Shapes   W [M, C*R*S] pruned; x [batch, C, H, W], y [batch, M, P, Q] (or pooled), each NCHW or
             channels-last, any stride, padding and dilation.
    Grid     row blocks x tiles of an image x images, either of the first two fastest; a cluster of
             K_blocks programs for each, one range of channels a program.
    Program  stages its channels of a zero-padded tile of x as float32 in shared memory, chunk by
             chunk, so that nothing after it tests for borders; Gy groups of threads share the
             non-zeros of a chunk. gather walks lists of (cell, value), one row a thread; unrolled
             runs a body with cells and values as immediates, all rows of the block in each lane.
             The Gy * K_blocks partials are added in order. A pool reads the finished pixels of the
             program's rows from shared memory: where windows of two tiles overlap, both tiles
             compute those pixels.
    Cost     2*nnz*P*Q flop; x is staged once per row block, halo included; gather reads 4 bytes of
             shared memory a product, unrolled as much for each used column and row block.
    Error    |y - y64| <= gamma(nnz_row + parts + 2) * (|W| @ |x| + |bias| + |residual|).
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal.
    Source   the staged, halo-extended tile: common to all direct convolutions; Chen, Escort, 2018,
             and Wang, SparseRT, PACT 2020, for virtual columns of a sparse filter.
    """
    problem, config, shape = plan.problem, plan.config, shape_of(plan)
    dependent = has_dependent_launch(plan.device.arch)
    opened, exchange = emit_window(shape), emit_exchange(shape)
    texts, arrays = (
        _gather_parts(plan, shape) if config.kernel == "gather" else _unrolled_parts(plan, shape)
    )
    epilogue = problem.epilogue
    return KernelSource(
        fn=conv_gather if config.kernel == "gather" else conv_unrolled,
        constants={
            "SHAPE": shape,
            "IMAGE": image_of(problem),
            "FASTEST": config.fastest,
            "DEPENDENT": dependent,
            "SHARED": opened.text,
            "SHARED_CONSTRAINTS": opened.constraints,
            **texts,
            "EXCHANGE": exchange.text,
            "EXCHANGE_CONSTRAINTS": exchange.constraints,
            "HAS_BIAS": epilogue.bias,
            "HAS_RESIDUAL": epilogue.residual,
            "ACTIVATION": epilogue.activation,
        },
        x_dtype=problem.x_dtype,
        arrays=arrays,
        scalars={},
        grid=grid_of(
            config,
            ceil_div(problem.M, shape.block_m),
            shape.tile.tiles,
            ceil_div(problem.batch, shape.tile.images),
        ),
        num_warps=shape.threads // 32,
        options={"launch_pdl": dependent},
        window_bytes=shape.shared_bytes,
        cluster=config.K_blocks,
    )


def _gather_parts(plan: Plan[ConvProblem], shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    walk = emit_walk(Walk(shape.repeat, shape.tile.step * 4, shape.depth, shape.batch))
    packed = lists_for(plan)
    arrays = {
        "pairs": packed.pairs.view("int64"),
        "runs": packed.runs.view("int64"),
        "rows": packed.rows,
    }
    return {"ASM": walk.text, "CONSTRAINTS": walk.constraints}, arrays


def _unrolled_parts(plan: Plan[ConvProblem], shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    programs = conv_programs(plan)
    asm = [emit_program(program, shape) for program in programs]
    texts = {"ASM": tuple(a.text for a in asm), "CONSTRAINTS": asm[0].constraints}
    return texts, {"rows": programs[0].rows}
