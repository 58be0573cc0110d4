"""The Triton kernel of family ``gather``: addresses in, walk, epilogue and stores out."""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import Columns, has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants, f32s, store_row
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.gather.limits import gather_shape
from sparse_triton.kernels.gather.pack import cut_of, packed_for
from sparse_triton.kernels.gather.walk import Walk, emit_walk


@triton.jit
def spmm_gather(  # type: ignore[no-untyped-def]
    x, y, bias, residual, pairs, runs, rows,
    N, stride_xk, stride_xn, stride_xb, stride_ym, stride_yn, stride_yb,
    GY: tl.constexpr, BLOCK_M: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
    REPEAT: tl.constexpr, COLUMNS_FASTEST: tl.constexpr,
    PAIRED: tl.constexpr, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr, X_BYTES: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    # One axis, one thread an element: any other layout would instantiate the walk twice.
    thread = tl.arange(0, GY * BLOCK_M * LANES)
    lane = thread % LANES
    place = (thread // LANES) % BLOCK_M
    group = thread // (LANES * BLOCK_M)

    # What belongs to the weight is asked for first: it does not wait for the kernel before.
    word = tl.load(rows + i_m * BLOCK_M + place)
    row = (word & 0xFFFFFFFF).to(tl.int32)  # -1: none begins here
    further = (word >> 32).to(tl.int32)
    run = tl.load(runs + i_m * GY * BLOCK_M + thread // LANES)  # first pair, number of pairs
    p_pairs = (pairs + (run & 0xFFFFFFFF)).to(tl.int64)
    count = (run >> 32).to(tl.int32)
    o_n = i_n * (LANES * VECTOR * REPEAT) + lane * VECTOR
    # Lanes past N read the last columns again: nothing outside X is ever read.
    p_x = (x + i_b * stride_xb + tl.minimum(o_n, N - VECTOR) * stride_xn).to(tl.int64)
    if ASM == "":
        sums = (walk(p_pairs, count, x, p_x, stride_xk, GY, BLOCK_M * LANES),)
    else:
        row_bytes = (stride_xk * X_BYTES).to(tl.int32) + lane * 0
        sums = tl.inline_asm_elementwise(
            ASM,
            CONSTRAINTS,
            [p_pairs, count, p_x, row_bytes, thread, N - o_n, further],
            dtype=f32s(VECTOR * REPEAT),
            is_pure=False,
            pack=1,
        )

    for n in tl.static_range(REPEAT):
        o_r = o_n + n * LANES * VECTOR
        mask = (row >= 0) & (group == 0) & (o_r < N)
        o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + o_r * stride_yn
        store_row(
            y, sums, row, o_y, stride_yn, mask, bias, residual, n * VECTOR, VECTOR, PAIRED,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
        )  # fmt: skip


@triton.jit
def walk(p_pairs, count, x, p_x, stride_xk, GY: tl.constexpr, ROW_THREADS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Naive reference of the PTX walk in plain Triton: one pair a trip, one column a lane."""
    p_pair = p_pairs.to(tl.pointer_type(tl.int64), bitcast=False)
    p_column = p_x.to(x.dtype, bitcast=False)
    acc = tl.zeros([GY * ROW_THREADS], dtype=tl.float32)
    for i in range(0, tl.max(count, axis=0)):
        pair = tl.load(p_pair + i, mask=i < count, other=0)
        k = pair & 0xFFFFFFFF
        w = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        x_k = tl.load(p_column + k * stride_xk, mask=i < count, other=0.0)
        acc += w * x_k.to(tl.float32)
    parts = tl.reshape(acc, [GY, ROW_THREADS])
    total = tl.sum(parts, axis=0)[None, :] + tl.zeros([GY, ROW_THREADS], dtype=tl.float32)
    return tl.reshape(total, [GY * ROW_THREADS])


def gather_source(plan: Plan, naive: bool = False) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` that walks packed (column, value) pairs.

    Shapes   W [M, K] pruned; x [batch, K, N], y [batch, M, N], each in either layout.
    Grid     row blocks x column tiles x batch, either of the first two fastest.
    Program  block_m places x Gy lists of each x lanes, one thread each, ``repeat`` times
             ``vector`` adjacent columns a lane; the Gy partials are added in group order through
             shared memory. Rows of one program share the rows of x that they use in the L1 cache.
    Cost     2*nnz*N flop; nnz*N*itemsize bytes of x through L1; 8 bytes a non-zero and column tile.
    Error    |y - y64| <= gamma(nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see numerics.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   row swizzle: Gale, Zaharia, Young, Elsen, Sparse GPU Kernels for Deep Learning,
             SC 2020.

    ``naive`` walks in plain Triton (needs vector = repeat = 1 and whole rows): what the interpreter
    can run.
    """
    problem, config = plan.problem, plan.config
    N = problem.N
    lanes, cut = gather_shape(problem, config).lanes, cut_of(problem, config)
    assert not (naive and config.row_blocks == "split"), "the naive walk knows no further places"
    threads = cut.places * cut.Gy * lanes
    packed = packed_for(plan)
    dependent = has_dependent_launch(plan.device.arch)
    columns = Columns(problem.x_dtype, config.vector)
    split = config.row_blocks == "split"
    asm = emit_walk(
        Walk(columns, lanes, config.repeat, config.prefetch, cut.Gy, threads, split, dependent)
    )
    return KernelSource(
        fn=spmm_gather,
        constants={
            "GY": cut.Gy,
            "BLOCK_M": cut.places,
            "LANES": lanes,
            "VECTOR": config.vector,
            "REPEAT": config.repeat,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "PAIRED": problem.y_layout == "row",
            "ASM": "" if naive else asm.text,
            "CONSTRAINTS": asm.constraints,
            "X_BYTES": problem.x_itemsize,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays={
            "pairs": packed.pairs.view(np.int64),
            "runs": packed.runs.view(np.int64),
            "rows": packed.rows.view(np.int64),
        },
        scalars={"N": N, **problem.strides},
        grid=grid_of(
            config,
            packed.rows.shape[0],
            ceil_div(N, lanes * config.vector * config.repeat),
            problem.batch,
        ),
        num_warps=threads // 32,
        options={"launch_pdl": dependent},
        cached=True,
    )
