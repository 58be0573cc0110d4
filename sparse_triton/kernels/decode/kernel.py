"""The Triton kernel of family ``decode``: addresses in, walk, epilogue and stores out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import Asm, has_dependent_launch
from sparse_triton.kernels.decode.bitmap_kernel import bitmap_source
from sparse_triton.kernels.decode.expand import emit_expand
from sparse_triton.kernels.decode.expand_program import Expand
from sparse_triton.kernels.decode.limits import INDEX_BITS, expand_shape, walk_shape
from sparse_triton.kernels.decode.pack import lists_for, starts_for
from sparse_triton.kernels.decode.stage import Way
from sparse_triton.kernels.decode.walk import Walk, emit_walk
from sparse_triton.kernels.epilogue import f32s, finish
from sparse_triton.problem import SpmmProblem

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


@triton.jit
def spmm_decode(  # type: ignore[no-untyped-def]
    x, y, bias, residual, values, gaps, starts, first_step, rows,
    N, stride_xk, stride_xn, stride_xb, stride_ym, stride_yn, stride_yb,
    GY: tl.constexpr, BLOCK_M: tl.constexpr, VECTOR: tl.constexpr, GAP_WORDS: tl.constexpr,
    COLUMNS_FASTEST: tl.constexpr, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    # One axis, one thread an element: any other layout would instantiate the walk twice.
    thread = tl.arange(0, GY * BLOCK_M)
    piece = thread // BLOCK_M

    o_step = tl.load(first_step + i_m)
    steps = tl.load(first_step + i_m + 1) - o_step
    begin = steps * piece // GY
    count = steps * (piece + 1) // GY - begin
    lane = (o_step + begin).to(tl.int64) * BLOCK_M + thread % BLOCK_M
    p_values = (values + lane * 8).to(tl.int64)
    p_gaps = (gaps + lane * GAP_WORDS).to(tl.int64)
    before = tl.load(starts + i_m * GY * BLOCK_M + thread).to(tl.int32)
    inside = thread < BLOCK_M * VECTOR
    row = tl.load(rows + i_m * BLOCK_M + thread % BLOCK_M, mask=inside, other=-1)

    o_n = i_n * VECTOR
    zero = thread * 0
    p_x = (x + i_b * stride_xb + o_n * stride_xn).to(tl.int64)
    acc = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [p_values, p_gaps, count, before, p_x + zero, stride_xk + zero, stride_xn + zero,
         (N - o_n).to(tl.int32) + zero, thread],
        dtype=tl.float32,
        is_pure=False,
        pack=1,
    )  # fmt: skip

    column = o_n + thread // BLOCK_M
    mask = (row >= 0) & (column < N)
    o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + column * stride_yn
    out = finish(acc, row, o_y, mask, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)
    tl.store(y + o_y, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def spmm_decode_expand(  # type: ignore[no-untyped-def]
    x, y, bias, residual, values, gaps, starts, first_step, rows,
    N, stride_xk, stride_xn, stride_xb, stride_ym, stride_yn, stride_yb,
    GY: tl.constexpr, BLOCK_M: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
    OUTPUTS: tl.constexpr, COLUMNS_FASTEST: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    thread = tl.arange(0, GY * BLOCK_M)  # one thread an element, as above
    zero = thread * 0
    o_n = i_n * COLUMNS
    p_first = (first_step + i_m * CHUNKS).to(tl.int64) + zero
    p_before = (starts + (i_m * CHUNKS).to(tl.int64) * (GY * BLOCK_M) + thread).to(tl.int64)
    p_x = (x + i_b * stride_xb + o_n * stride_xn).to(tl.int64)
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [values.to(tl.int64) + zero, gaps.to(tl.int64) + zero, p_first, p_before, p_x + zero,
         stride_xk + zero, stride_xn + zero, (N - o_n).to(tl.int32) + zero, thread],
        dtype=f32s(OUTPUTS),
        is_pure=False,
        pack=1,
    )  # fmt: skip
    for j in tl.static_range(OUTPUTS):
        number = thread + j * GY * BLOCK_M
        inside = number < BLOCK_M * COLUMNS
        row = tl.load(rows + i_m * BLOCK_M + number // COLUMNS, mask=inside, other=-1)
        column = o_n + number % COLUMNS
        mask = (row >= 0) & (column < N)
        o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + column * stride_yn
        out = finish(sums[j], row, o_y, mask, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)
        tl.store(y + o_y, out.to(y.dtype.element_ty), mask=mask)


def decode_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` that reads W as gaps and 16-bit values.

    Shapes   W [M, K] pruned; x [batch, K, N], y [batch, M, N], each in either layout, N small.
    Grid     row blocks x column tiles x batch, either of the first two fastest.
    Program  block_m rows x Gy pieces of each row's list, one thread each. chunk = 0: x is staged in
             shared memory, threads gather and multiply, the Gy partials are added in piece order.
             Otherwise: ``chunk`` columns of the rows are written out in shared memory at a time and
             multiplied on tensor cores, the warps' partials are added in warp order.
    Cost     2*nnz*N flop; (16 + gap_bits) / 8 bytes a non-zero and column tile, read once.
    Error    |y - y64| <= gamma(step*nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see
             numerics; step = 1, on tensor cores 2.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    """
    if plan.config.format == "bitmap":
        return bitmap_source(plan)
    return _expand_source(plan) if plan.config.chunk else _walk_source(plan)


def _walk_source(plan: Plan) -> KernelSource:
    problem, config = plan.problem, plan.config
    K, N = problem.K, problem.N
    shape = walk_shape(problem, config)
    asm = emit_walk(
        Walk(
            K, problem.x_dtype, problem.w_dtype, shape, INDEX_BITS[config.format], config.prefetch,
            _way(problem, shape.vector), has_dependent_launch(plan.device.arch),
        )
    )  # fmt: skip
    constants = {
        "GY": config.Gy,
        "BLOCK_M": shape.block_m,
        "VECTOR": shape.vector,
        "GAP_WORDS": INDEX_BITS[config.format] // 4,
    }
    tiles = ceil_div(N, shape.vector)
    return _source(plan, spmm_decode, constants, asm, tiles, shape.window_bytes(K))


def _way(problem: SpmmProblem, vector: int) -> Way:
    K, N = problem.K, problem.N
    token_major = problem.x_layout == "column" and N > 1
    if vector == N and not token_major and (problem.batch == 1 or K * N % 8 == 0):
        return "copy"
    return "pairs" if token_major and K % 2 == 0 else "any"


def _expand_source(plan: Plan) -> KernelSource:
    problem, config = plan.problem, plan.config
    shape = expand_shape(problem, config)
    asm = emit_expand(
        Expand(
            problem.K, problem.w_dtype, shape, INDEX_BITS[config.format], config.prefetch,
            problem.x_layout == "column" and problem.K % 8 == 0,
            has_dependent_launch(plan.device.arch),
        )
    )  # fmt: skip
    constants = {
        "GY": config.Gy,
        "BLOCK_M": shape.block_m,
        "COLUMNS": shape.columns,
        "CHUNKS": ceil_div(problem.K, shape.chunk),
        "OUTPUTS": shape.outputs,
    }
    tiles = ceil_div(problem.N, shape.columns)
    source = _source(plan, spmm_decode_expand, constants, asm, tiles, shape.window_bytes())
    # Several programs a multiprocessor: while one waits at a barrier another works.
    programs = 3 if shape.threads <= 256 and shape.columns == 8 else 2
    registers = max(64, plan.device.registers // (programs * shape.threads) // 8 * 8)
    return replace(source, options={**source.options, "maxnreg": min(248, registers)})


def _source(
    plan: Plan, fn: Any, constants: dict[str, Any], asm: Asm, tiles: int, window_bytes: int
) -> KernelSource:
    """What the two kernels have in common."""
    problem, config = plan.problem, plan.config
    M, K, N = problem.M, problem.K, problem.N
    lists = lists_for(plan)
    x_k, x_n = (N, 1) if problem.x_layout == "row" else (1, K)
    y_m, y_n = (N, 1) if problem.y_layout == "row" else (1, M)
    epilogue = problem.epilogue
    blocks, block_m = lists.rows.shape
    return KernelSource(
        fn=fn,
        constants={
            **constants,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "ASM": asm.text,
            "CONSTRAINTS": asm.constraints,
            "HAS_BIAS": epilogue.bias,
            "HAS_RESIDUAL": epilogue.residual,
            "ACTIVATION": epilogue.activation,
        },
        x_dtype=problem.x_dtype,
        arrays={
            "values": lists.values,
            "gaps": lists.gaps,
            "starts": starts_for(plan),
            "first_step": lists.first_step,
            "rows": lists.rows,
        },
        scalars={
            "N": N,
            "stride_xk": x_k,
            "stride_xn": x_n,
            "stride_xb": K * N,
            "stride_ym": y_m,
            "stride_yn": y_n,
            "stride_yb": M * N,
        },
        grid=grid_of(config, blocks, tiles, problem.batch),
        num_warps=block_m * config.Gy // 32,
        options={"launch_pdl": has_dependent_launch(plan.device.arch)},
        window_bytes=window_bytes,
    )
