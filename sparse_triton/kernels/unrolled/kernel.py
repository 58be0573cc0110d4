"""The Triton kernel around an emitted program: addresses in, epilogue and stores out."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import Columns, has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants, f32s, store_row
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.limits import exchange_of
from sparse_triton.kernels.unrolled.ptx import Place, Spelling, emit, held_rows
from sparse_triton.kernels.unrolled.schedule import Program, unrolled_program

# ptxas moves loads at will: some programs get them back to just before their use (11 at 95 % zeros:
# 14 instructions ahead, written 61 ahead, 37 us instead of 23). In programs that have a
# multiprocessor to themselves, loads stay where they were written; in others it costs 5 % and more.
AS_WRITTEN = "--opt-level 1"


@triton.jit
def spmm_unrolled(  # type: ignore[no-untyped-def]
    x, y, bias, residual, rows, stride_xb, stride_yb,
    N: tl.constexpr, stride_ym: tl.constexpr, stride_yn: tl.constexpr,
    GY: tl.constexpr, K_BLOCKS: tl.constexpr, STACK: tl.constexpr, LANES: tl.constexpr,
    VECTOR: tl.constexpr, STARTS: tl.constexpr, SHARE: tl.constexpr, EARLY_ROWS: tl.constexpr,
    COLUMNS_FASTEST: tl.constexpr, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    # One axis, one thread an element: any other layout would instantiate the program twice.
    # A cluster shares it: [K block][stacked row block][group][lane].
    thread = tl.arange(0, K_BLOCKS * STACK * GY * LANES)
    lane, group = thread % LANES, thread // LANES % GY
    block = i_m * STACK + thread // (GY * LANES) % STACK
    start = thread // 128 % STARTS  # neighbouring warps are on different schedulers
    body = (block * K_BLOCKS + thread // (STACK * GY * LANES)) * GY + group

    o_n = (i_n * LANES + lane) * VECTOR
    # Lanes past N read the last columns again: nothing outside X is ever read.
    p_x = (x + i_b * stride_xb + tl.minimum(o_n, N - VECTOR)).to(tl.int64)
    # Rows are asked for before the body, where registers allow it: they do not wait for X.
    row_of = ()
    if EARLY_ROWS:
        for i in tl.static_range(SHARE):
            row = tl.load(rows + body * SHARE + i)
            row_of = row_of + (row,)  # type: ignore[assignment]  # noqa: RUF005
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [p_x, body, lane, start] if STARTS > 1 else [p_x, body, lane],
        dtype=f32s(SHARE * VECTOR),
        is_pure=False,
        pack=1,
    )

    for i in tl.static_range(SHARE):
        row = row_of[i] if EARLY_ROWS else tl.load(rows + body * SHARE + i)  # -1: padding
        mask = (row >= 0) & (o_n < N)
        o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + o_n.to(tl.int64) * stride_yn
        store_row(
            y, sums, row, o_y, stride_yn, mask, bias, residual, i * VECTOR, VECTOR, stride_yn == 1,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
        )  # fmt: skip


def unrolled_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` with the pattern and the values of W compiled in.

    Shapes   W [M, K] pruned; x [batch, K, N] row-major and dense; y [batch, M, N] in either layout;
             K, N and the layout fixed by the plan.
    Grid     stacks x column tiles x batch, either of the first two fastest: program (i, j, b)
             owns stack i of row blocks and column tile j.
    Program  ``stack`` row blocks over one column tile; a cluster of K_blocks programs owns them,
             whose Gy groups share a block's non-empty columns by equal nnz, in k order; each lane
             holds block_m fp32 accumulators for each of its ``vector`` adjacent columns; the
             Gy * K_blocks partials are added in order of K blocks and groups through shared memory.
             With several ``starts`` the warps of a body run its chunks in turns, see ``turns``.
    Cost     2*nnz*N flop; x row k is read once per program that uses it; W is never loaded, it is
             the code: 16 bytes per non-zero and column of a lane.
    Error    |y - y64| <= gamma(nnz_row + parts + 2) * (|W| @ |x| + |bias| + |residual|), with
             parts = Gy * K_blocks; see numerics, there also for accumulate="float16".
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   Wang, SparseRT, PACT 2020, section 3.
    """
    return source_of(plan, unrolled_program(plan))


def source_of(plan: Plan, program: Program, place: Place = "alone") -> KernelSource:
    """The kernel of the plan's program, or of some of its row blocks, see ``pieces``."""
    problem, config = plan.problem, plan.config
    exchange = exchange_of(problem, config)
    lanes = exchange.lanes
    row_bytes = problem.N * problem.x_itemsize
    dependent = has_dependent_launch(plan.device.arch)
    columns = Columns(problem.x_dtype, config.vector)
    spelling = Spelling(columns, row_bytes, exchange, dependent, config.starts, place)
    asm = emit(program, spelling)
    row_major = problem.y_layout == "row"
    return KernelSource(
        fn=spmm_unrolled,
        constants={
            "N": problem.N,
            "stride_ym": problem.N if row_major else 1,
            "stride_yn": 1 if row_major else problem.M,
            "GY": config.Gy,
            "K_BLOCKS": config.K_blocks,
            "STACK": config.stack,
            "LANES": lanes,
            "VECTOR": config.vector,
            "STARTS": config.starts,
            "SHARE": exchange.block_m // config.parts,
            "EARLY_ROWS": exchange.block_m // config.parts <= 8,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "ASM": asm.text,
            "CONSTRAINTS": asm.constraints,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays={"rows": held_rows(program, exchange)},
        scalars={"stride_xb": problem.K * problem.N, "stride_yb": problem.M * problem.N},
        grid=grid_of(
            config,
            program.rows.shape[0] // config.stack,
            ceil_div(problem.N, lanes * config.vector),
            problem.batch,
        ),
        num_warps=config.stack * config.Gy * lanes // 32,
        options={
            "launch_pdl": dependent,
            "num_ctas": config.K_blocks,
            "ptx_options": AS_WRITTEN if config.starts > 2 else None,
        },
    )
