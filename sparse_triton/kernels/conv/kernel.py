"""The Triton kernels of both convolution families: stage, multiply, exchange, finish."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sparse_triton.kernels.conv.finish import finish_tile, held_rows
from sparse_triton.kernels.conv.stage import load_tile, put_tile, put_zeros
from sparse_triton.kernels.epilogue import f32s


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
