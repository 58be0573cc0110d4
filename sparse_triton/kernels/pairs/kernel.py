"""The Triton kernel around the products of ``pairs``: addresses, epilogue, stores."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants, f32s, finish, store_pair
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.pairs.asm import emit
from sparse_triton.kernels.pairs.limits import GROUPS, REGISTERS, THREADS, tile_of
from sparse_triton.kernels.pairs.pack import packed_for


@triton.jit
def spmm_pairs(  # type: ignore[no-untyped-def]
    x, y, bias, residual, values, selectors, order, steps, M, N, K, columns, longest,
    GROUPS: tl.constexpr, STACK: tl.constexpr, BLOCK_N: tl.constexpr,
    TEAM: tl.constexpr, OUTPUTS: tl.constexpr,
    Y_ROW: tl.constexpr, PAIRED: tl.constexpr, COLUMNS_FASTEST: tl.constexpr,
    ASM: tl.constexpr, CONSTRAINTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    # One axis, one thread an element: any other layout would instantiate the program twice.
    thread = tl.arange(0, 2 * GROUPS * 128)
    zero = thread * 0
    group, member = thread // 128, thread % 128
    # The columns of all of X's matrices are one row of them; those past the last repeat it.
    o_n = i_n * BLOCK_N
    columns, N = columns.to(tl.int32), N.to(tl.int32)
    column = tl.minimum(o_n + tl.minimum(thread % TEAM, BLOCK_N - 1), columns - 1)
    image = column // N
    p_x = x + image.to(tl.int64) * K * N + (column - image * N)
    step = i_m * longest
    tile = step * (GROUPS * STACK) + zero
    sums = tl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        [(values + tile * 1024).to(tl.int64), (selectors + tile * 256).to(tl.int64),
         (order + step * 16 + zero).to(tl.int64), p_x.to(tl.int64), N * 4 + zero,
         tl.load(steps + i_m) + zero, thread],
        dtype=f32s(OUTPUTS),
        is_pure=False,
        pack=1,
    )  # fmt: skip
    # A thread has two neighbouring columns of every eight, in two rows of each 64-row tile.
    row = (i_m * GROUPS + group) * STACK * 64 + member // 32 * 16 + member % 32 // 4
    a = o_n + member % 4 * 2
    image = a // N
    n = a - image * N
    for j in tl.static_range(BLOCK_N // 8):
        last = n + 1 == N
        o_a = place(image, n, M, N, Y_ROW)
        o_b = place(tl.where(last, image + 1, image), tl.where(last, 0, n + 1), M, N, Y_ROW)
        for r in tl.static_range(2 * STACK):
            store_two(
                y, sums[r // 2 * (BLOCK_N // 2) + 4 * j + r % 2 * 2],
                sums[r // 2 * (BLOCK_N // 2) + 4 * j + r % 2 * 2 + 1],
                row + r // 2 * 64 + r % 2 * 8, o_a, o_b, a, columns, M, N, bias, residual,
                Y_ROW, PAIRED, HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
            )  # fmt: skip
        a += 8
        n += 8
        image, n = tl.where(n >= N, image + 1, image), tl.where(n >= N, n - N, n)


@triton.jit
def place(image, n, M, N, Y_ROW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offset of a column of Y in its first row."""
    if Y_ROW:
        return image.to(tl.int64) * M * N + n
    else:
        return (image.to(tl.int64) * N + n) * M


@triton.jit
def store_two(  # type: ignore[no-untyped-def]
    y, sum_a, sum_b, row, o_a, o_b, a, columns, M, N, bias, residual,
    Y_ROW: tl.constexpr, PAIRED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Finish and store columns a and a + 1 of one row."""
    o_row = row.to(tl.int64) * (N if Y_ROW else 1)
    o_a, o_b = o_a + o_row, o_b + o_row
    mask_a, mask_b = (a < columns) & (row < M), (a + 1 < columns) & (row < M)
    y_a = finish(
        sum_a, row, o_a, mask_a, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION
    )  # fmt: skip
    y_b = finish(
        sum_b, row, o_b, mask_b, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION
    )  # fmt: skip
    if PAIRED:
        store_pair(y + o_a, y_a, y_b, mask_a)
    else:
        tl.store(y + o_a, y_a, mask=mask_a)
        tl.store(y + o_b, y_b, mask=mask_b)


def pairs_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` on sparse tensor cores, at nearly float32's accuracy.

    Shapes   W [M, K] pruned; x [batch, K, N] row-major, y [batch, M, N] in either layout, float32.
    Grid     row blocks x column tiles, either fastest; the columns of all matrices are one row.
    Program  one tile [block_m, block_n] of y. Columns of W that no row of the block has both of
             share a slot: sparse tensor cores read one of two rows of x for it, as a selector says,
             and take half the time. x is split into high + low (high is a TF32 number) and turned
             on its way into shared memory, by warps that do nothing else; W in registers, by
             those that multiply. high*high in TF32 goes to one accumulator, w_low*x + w_high*x_low
             in bfloat16 to another, added at the end, or to the same where tiles are wide.
    Cost     the time of 2*M*K*N flop on dense TF32 tensor cores where all columns find partners, at
             most twice that; 2 to 4 bytes an element of W, and as many of x, for each tile.
    Error    |y - y64| <= gamma(13 * nnz_row + 130 + 1 + 2) * (|W| @ |x| + |bias| + |residual|),
             derived in numerics, for |w| and |x| between 2**-102 and 2**127 or zero.
    Zeros    of W multiply where neither column of a slot has an entry: NaN or Inf in a column of x
             may make that column of y NaN in every row.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   Ootomo, Yokota, IJHPCA 2022 (see tf32x3); Mishra et al., Accelerating Sparse Deep
             Neural Networks, 2021 (structured sparsity), whose permutations of columns raise what
             pruning keeps; here they leave nothing to prune.
    """
    problem, config = plan.problem, plan.config
    M, N, columns = problem.M, problem.N, problem.N * problem.batch
    tile = tile_of(problem, config)
    blocks, tiles = ceil_div(M, tile.block_m), ceil_div(columns, tile.block_n)
    packed = packed_for(plan.csr, tile)
    dependent = has_dependent_launch(plan.device.arch)
    asm = emit(tile, dependent)
    y_row = problem.y_layout == "row"
    return KernelSource(
        fn=spmm_pairs,
        constants={
            "GROUPS": GROUPS,
            "STACK": tile.stack,
            "BLOCK_N": tile.block_n,
            "TEAM": tile.team,
            "OUTPUTS": tile.outputs,
            "Y_ROW": y_row,
            "PAIRED": y_row and N % 2 == 0,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "ASM": asm.text,
            "CONSTRAINTS": asm.constraints,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays=packed._asdict(),
        scalars={"M": M, "N": N, "K": problem.K, "columns": columns, "longest": packed.longest},
        grid=grid_of(config, blocks, tiles, 1),
        num_warps=2 * THREADS // 32,
        options={
            "launch_pdl": dependent,
            "maxnreg": REGISTERS,
        },
        window_bytes=tile.window_bytes,
    )
