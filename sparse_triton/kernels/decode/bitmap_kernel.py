"""The Triton kernel around the tensor-core program of ``bitmap``."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.decode.bitmap import emit_bitmap
from sparse_triton.kernels.decode.bitmap_pack import records_for
from sparse_triton.kernels.decode.bitmap_program import Bitmap
from sparse_triton.kernels.decode.limits import bitmap_shape
from sparse_triton.kernels.decode.source import Program, source_of
from sparse_triton.kernels.epilogue import f32s, finish
from sparse_triton.kernels.family import Plan


@triton.jit
def spmm_decode_bitmap(  # type: ignore[no-untyped-def]
    x, y, bias, residual, words, first, rows,
    N, stride_xk, stride_xn, stride_xb, stride_ym, stride_yn, stride_yb, stage_bytes,
    THREADS: tl.constexpr, BLOCK_M: tl.constexpr, COLUMNS: tl.constexpr, RECORDS: tl.constexpr,
    OUTPUTS: tl.constexpr, COLUMNS_FASTEST: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    # One axis, one thread an element: any other layout would instantiate the program twice.
    thread = tl.arange(0, THREADS)
    zero = thread * 0
    o_n = i_n * COLUMNS
    p_first = (first + i_m * RECORDS).to(tl.int64)
    p_x = (x + i_b * stride_xb + o_n * stride_xn).to(tl.int64)
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [words.to(tl.int64) + zero, p_first + zero, p_x + zero, stride_xk + zero, stride_xn + zero,
         (N - o_n).to(tl.int32) + zero, stage_bytes.to(tl.int32) + zero, thread],
        dtype=f32s(OUTPUTS),
        is_pure=False,
        pack=1,
    )  # fmt: skip
    for j in tl.static_range(OUTPUTS):
        number = thread + j * THREADS
        inside = number < BLOCK_M * COLUMNS
        row = tl.load(rows + i_m * BLOCK_M + number // COLUMNS, mask=inside, other=-1)
        column = o_n + number % COLUMNS
        mask = (row >= 0) & (column < N)
        o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + column * stride_yn
        out = finish(sums[j], row, o_y, mask, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)
        tl.store(y + o_y, out.to(y.dtype.element_ty), mask=mask)


def bitmap_source(plan: Plan) -> KernelSource:
    """``decode_source`` for the format "bitmap"."""
    problem = plan.problem
    shape, records = bitmap_shape(problem, plan.config), records_for(plan)
    bitmap = Bitmap(
        problem.K, problem.w_dtype, shape, problem.N % shape.columns == 0,
        problem.x_layout == "column" and problem.K % 8 == 0,
        has_dependent_launch(plan.device.arch),
    )  # fmt: skip
    # Two programs of 512 threads a multiprocessor; more columns need more registers.
    most = 64 if shape.columns <= 16 else min(128, plan.device.registers // shape.threads)
    program = Program(
        fn=spmm_decode_bitmap,
        constants={
            "THREADS": shape.threads,
            "BLOCK_M": shape.block_m,
            "COLUMNS": shape.columns,
            "RECORDS": shape.units * bitmap.strips,
            "OUTPUTS": shape.outputs,
        },
        asm=emit_bitmap(bitmap),
        arrays={"words": records.words, "first": records.first, "rows": records.rows},
        tiles=ceil_div(problem.N, shape.columns),
        warps=shape.warps,
        window_bytes=shape.window_bytes(records.stage_bytes),
        sizes={"stage_bytes": records.stage_bytes},
        options={"maxnreg": most},
    )
    return source_of(plan, program)
