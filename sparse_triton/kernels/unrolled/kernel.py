"""The Triton kernel around an emitted program: addresses in, epilogue and stores out."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import KernelConfig, ceil_div, grid_of
from sparse_triton.device import Device
from sparse_triton.kernels.columns import ONCE, Columns, has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants, f32s, store_row
from sparse_triton.kernels.exchange import cluster_sizes
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.streams import streamed
from sparse_triton.kernels.unrolled.limits import exchange_of
from sparse_triton.kernels.unrolled.ptx import Place, Spelling, emit, held_rows
from sparse_triton.kernels.unrolled.schedule import Program, unrolled_program

# ptxas moves loads at will: some programs get them back to just before their use (11 at 95 % zeros:
# 14 instructions ahead, written 61 ahead, 37 us instead of 23). In programs that have a
# multiprocessor to themselves, loads stay where they were written; in others it costs 5 % and more.
AS_WRITTEN = "--opt-level 1"

# Row numbers fetched together. A store keeps all loads behind it, so that one number at a time is
# one wait a row; that is hidden where other groups of a program are not done yet, and eight then
# take 3 to 6 % longer.
ROWS_AHEAD = 8


@triton.jit
def spmm_unrolled(  # type: ignore[no-untyped-def]
    x, y, bias, residual, rows, stride_xb, stride_yb,
    N: tl.constexpr, stride_ym: tl.constexpr, stride_yn: tl.constexpr,
    GY: tl.constexpr, K_BLOCKS: tl.constexpr, STACK: tl.constexpr, LANES: tl.constexpr,
    VECTOR: tl.constexpr, STARTS: tl.constexpr, SHARE: tl.constexpr, ROWS_AHEAD: tl.constexpr,
    COLUMNS_FASTEST: tl.constexpr, EVICTION: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
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
    if ROWS_AHEAD == SHARE:
        row_of = row_numbers(rows, body, 0, SHARE, SHARE)
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [p_x, body, lane, start] if STARTS > 1 else [p_x, body, lane],
        dtype=f32s(SHARE * VECTOR),
        is_pure=False,
        pack=1,
    )

    for first in tl.static_range(0, SHARE, ROWS_AHEAD):
        if ROWS_AHEAD < SHARE:
            row_of = row_numbers(rows, body, first, ROWS_AHEAD, SHARE)
        for i in tl.static_range(ROWS_AHEAD):
            if first + i < SHARE:
                row = row_of[i]  # -1: padding
                mask = (row >= 0) & (o_n < N)
                o_y = i_b * stride_yb + row.to(tl.int64) * stride_ym + o_n.to(tl.int64) * stride_yn
                store_row(
                    y, sums, row, o_y, stride_yn, mask, bias, residual, (first + i) * VECTOR,
                    VECTOR, stride_yn == 1, HAS_BIAS, HAS_RESIDUAL, ACTIVATION, EVICTION,
                )  # fmt: skip


@triton.jit
def row_numbers(  # type: ignore[no-untyped-def]
    rows, body, FIRST: tl.constexpr, COUNT: tl.constexpr, SHARE: tl.constexpr
):
    """Rows of sums ``FIRST ... FIRST + COUNT - 1`` of a body, as far as it holds them."""
    row_of = ()
    for i in tl.static_range(COUNT):
        if FIRST + i < SHARE:
            row = tl.load(rows + body * SHARE + FIRST + i)
            row_of = row_of + (row,)  # type: ignore[assignment]  # noqa: RUF005
    return row_of


def unrolled_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` with the pattern and the values of W compiled in.

    Shapes   W [M, K] pruned; x [batch, K, N] row-major and dense; y [batch, M, N] in either layout;
             K, N and the layout fixed by the plan.
    Grid     stacks x column tiles x batch, either of the first two fastest: program (i, j, b)
             owns stack i of row blocks and column tile j. With more than two ``starts``, two
             neighbouring tiles are a cluster, on multiprocessors that share an instruction cache.
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
    share, stacks = exchange.block_m // config.parts, program.rows.shape[0] // config.stack
    read_at_once = place == "alone" and (stacks == 1 or config.fastest == "rows")
    leaves_first = streamed(problem, plan.device, read_at_once)
    columns = Columns(problem.x_dtype, config.vector, ONCE if leaves_first == "x" else "")
    spelling = Spelling(columns, row_bytes, exchange, dependent, config.starts, place)
    asm = emit(program, spelling)
    row_major = problem.y_layout == "row"
    tiles = ceil_div(problem.N, lanes * config.vector)
    cluster = _neighbours(config, tiles, stacks * problem.batch, plan.device)
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
            "SHARE": share,
            "ROWS_AHEAD": min(share, ROWS_AHEAD) if share <= ROWS_AHEAD or config.parts == 1 else 1,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "EVICTION": "evict_first" if leaves_first == "y" else "",
            "ASM": asm.text,
            "CONSTRAINTS": asm.constraints,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays={"rows": held_rows(program, exchange)},
        scalars={"stride_xb": problem.K * problem.N, "stride_yb": problem.M * problem.N},
        grid=grid_of(config, stacks, tiles // cluster, problem.batch),
        cluster=cluster,
        num_warps=config.stack * config.Gy * lanes // 32,
        options={
            "launch_pdl": dependent,
            "num_ctas": config.K_blocks,
            "ptx_options": AS_WRITTEN if config.starts > 2 else None,
        },
    )


def _neighbours(config: KernelConfig, tiles: int, others: int, device: Device) -> int:
    """Programs of one code that are launched as a cluster, on two multiprocessors that share an
    instruction cache: where each has a multiprocessor to itself, and none waits for two."""
    alone = config.starts > 2 and config.K_blocks == 1 and config.fastest == "columns"
    one_wave = tiles * others <= device.cores
    return 2 if alone and one_wave and tiles % 2 == 0 and 2 in cluster_sizes(device) else 1
