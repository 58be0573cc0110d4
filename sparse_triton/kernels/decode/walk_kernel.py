"""The Triton kernel around the inner loop of ``walk``: addresses in, epilogue and stores out."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.decode.limits import INDEX_BITS, walk_shape
from sparse_triton.kernels.decode.pack import lists_for, starts_for
from sparse_triton.kernels.decode.source import Program, source_of
from sparse_triton.kernels.decode.stage import Way
from sparse_triton.kernels.decode.walk import Walk, emit_walk
from sparse_triton.kernels.epilogue import finish
from sparse_triton.kernels.family import Plan
from sparse_triton.problem import SpmmProblem


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


def walk_source(plan: Plan) -> KernelSource:
    """``decode_source`` for the formats that are lists."""
    problem, config = plan.problem, plan.config
    shape, lists = walk_shape(problem, config), lists_for(plan)
    bits = INDEX_BITS[config.format]
    asm = emit_walk(
        Walk(
            problem.K, problem.x_dtype, problem.w_dtype, shape, bits, config.prefetch,
            _way(problem, shape.vector), has_dependent_launch(plan.device.arch),
        )
    )  # fmt: skip
    program = Program(
        fn=spmm_decode,
        constants={
            "GY": config.Gy,
            "BLOCK_M": shape.block_m,
            "VECTOR": shape.vector,
            "GAP_WORDS": bits // 4,
        },
        asm=asm,
        arrays={
            "values": lists.values,
            "gaps": lists.gaps,
            "starts": starts_for(plan),
            "first_step": lists.first_step,
            "rows": lists.rows,
        },
        tiles=ceil_div(problem.N, shape.vector),
        warps=shape.threads // 32,
        window_bytes=shape.window_bytes(problem.K),
    )
    return source_of(plan, program)


def _way(problem: SpmmProblem, vector: int) -> Way:
    K, N = problem.K, problem.N
    token_major = problem.x_layout == "column" and N > 1
    if vector == N and not token_major and (problem.batch == 1 or K * N % 8 == 0):
        return "copy"
    return "pairs" if token_major and K % 2 == 0 else "any"
