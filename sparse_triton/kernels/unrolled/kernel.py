"""The Triton kernel around an emitted program: addresses in, epilogue and stores out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.epilogue import finish
from sparse_triton.kernels.unrolled.limits import unrolled_shape
from sparse_triton.kernels.unrolled.ptx import Spelling, emit
from sparse_triton.kernels.unrolled.schedule import unrolled_program

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


@triton.constexpr_function
def f32s(n):  # type: ignore[no-untyped-def]
    return (tl.float32,) * n


@triton.jit
def spmm_unrolled(  # type: ignore[no-untyped-def]
    x, y, bias, residual, rows, stride_xb, stride_yb,
    N: tl.constexpr, stride_ym: tl.constexpr, stride_yn: tl.constexpr,
    GY: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr, SHARE: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(0)
    i_b = tl.program_id(2).to(tl.int64)
    # One axis, one thread an element: any other layout would instantiate the program twice.
    thread = tl.arange(0, GY * LANES)
    group, lane = thread // LANES, thread % LANES

    o_n = (tl.program_id(1) * LANES + lane) * VECTOR
    # Lanes past N read the last columns again: nothing outside X is ever read.
    p_x = (x + i_b * stride_xb + tl.minimum(o_n, N - VECTOR)).to(tl.int64)
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [p_x, i_m * GY + group, lane],
        dtype=f32s(SHARE * VECTOR),
        is_pure=False,
        pack=1,
    )

    for i in tl.static_range(SHARE):
        row = tl.load(rows + (i_m * GY + group) * SHARE + i)  # -1: padding
        mask = (row >= 0) & (o_n < N)
        o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + o_n.to(tl.int64) * stride_yn
        if VECTOR == 1 or stride_yn != 1:
            for j in tl.static_range(VECTOR):
                a = finish(sums[i * VECTOR + j], row, o_y + j * stride_yn, mask, bias, residual,
                           HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
                tl.store(y + o_y + j * stride_yn, a.to(y.dtype.element_ty), mask=mask)
        else:
            for j in tl.static_range(VECTOR // 2):
                a = finish(sums[i * VECTOR + 2 * j], row, o_y + 2 * j, mask, bias, residual,
                           HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
                b = finish(sums[i * VECTOR + 2 * j + 1], row, o_y + 2 * j + 1, mask, bias, residual,
                           HAS_BIAS, HAS_RESIDUAL, ACTIVATION)  # fmt: skip
                store_pair(y + o_y + 2 * j, a, b, mask)


@triton.jit
def store_pair(p_y, a, b, mask):  # type: ignore[no-untyped-def]
    """Two adjacent elements in one store: as one integer of twice their width, low half first."""
    if p_y.dtype.element_ty == tl.float32:
        low = a.to(tl.uint32, bitcast=True).to(tl.uint64)
        high = b.to(tl.uint32, bitcast=True).to(tl.uint64)
        tl.store(p_y.to(tl.pointer_type(tl.uint64), bitcast=True), low | (high << 32), mask=mask)
    else:
        low = a.to(p_y.dtype.element_ty).to(tl.uint16, bitcast=True).to(tl.uint32)
        high = b.to(p_y.dtype.element_ty).to(tl.uint16, bitcast=True).to(tl.uint32)
        tl.store(p_y.to(tl.pointer_type(tl.uint32), bitcast=True), low | (high << 16), mask=mask)


def unrolled_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` with the pattern and the values of W compiled in.

    Shapes   W [M, K] pruned; x [batch, K, N] row-major and dense; y [batch, M, N] in either layout;
             K, N and the layout fixed by the plan.
    Grid     (M_blocks, N_blocks, batch): program (i, j, b) owns row block i and column tile j.
    Program  Gy groups share the block's non-empty columns by equal nnz, in k order; each lane holds
             block_m fp32 accumulators for each of its ``vector`` adjacent columns; the Gy partials
             are added in group order through shared memory.
    Cost     2*nnz*N flop; x row k is read once per row block that uses it; W is never loaded, it is
             the code: 16 bytes per non-zero and column of a lane.
    Error    |y - y64| <= gamma(nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see numerics.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   Wang, SparseRT, PACT 2020, section 3.
    """
    problem, config = plan.problem, plan.config
    block_m, lanes = unrolled_shape(problem, config)
    program = unrolled_program(plan)
    row_bytes = problem.N * problem.x_itemsize
    asm = emit(program, Spelling(problem.x_dtype, config.vector, lanes, row_bytes))
    row_major = problem.y_layout == "row"
    epilogue = problem.epilogue
    return KernelSource(
        fn=spmm_unrolled,
        constants={
            "N": problem.N,
            "stride_ym": problem.N if row_major else 1,
            "stride_yn": 1 if row_major else problem.M,
            "GY": config.Gy,
            "LANES": lanes,
            "VECTOR": config.vector,
            "SHARE": block_m // config.Gy,
            "ASM": asm.text,
            "CONSTRAINTS": asm.constraints,
            "HAS_BIAS": epilogue.bias,
            "HAS_RESIDUAL": epilogue.residual,
            "ACTIVATION": epilogue.activation,
        },
        x_dtype=problem.x_dtype,
        arrays={"rows": program.rows},
        scalars={"stride_xb": problem.K * problem.N, "stride_yb": problem.M * problem.N},
        grid=(program.rows.shape[0], ceil_div(problem.N, lanes * config.vector), problem.batch),
        num_warps=config.Gy * lanes // 32,
    )
