"""The Triton kernel of family ``tf32x3``: split, three products a tile, epilogue."""

from __future__ import annotations

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants, finish
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.tf32x3.limits import BLOCK_K, tile_of, warps_of
from sparse_triton.kernels.tf32x3.split import halves_for

# The products of a step may still read X's upper halves from registers when the next step begins to
# write there: Triton waits for them only after its own first product. They end here instead, and X
# passes through, so that nothing made of it comes before.
PACK = 8  # elements of a thread: the fewest that a tile's X leaves it
ENDED = tl.constexpr(
    "wgmma.wait_group.sync.aligned 0; "
    + " ".join(f"mov.b32 ${i}, ${i + PACK};" for i in range(PACK))
)
ENDED_CONSTRAINTS = tl.constexpr(",".join(["=f"] * PACK + ["f"] * PACK))
ENDED_PACK = tl.constexpr(PACK)


@triton.jit
def spmm_tf32x3(  # type: ignore[no-untyped-def]
    x, y, bias, residual, high, low, M, N, K, stride_wm,
    X_ROW: tl.constexpr, Y_ROW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    COLUMNS_FASTEST: tl.constexpr, DEPENDENT: tl.constexpr, IN_FLIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(1 if COLUMNS_FASTEST else 0)
    i_n = tl.program_id(0 if COLUMNS_FASTEST else 1)
    i_b = tl.program_id(2).to(tl.int64)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    # Offsets inside a tile fit in 32 bits, where it begins does not.
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    o_w = m[None, :] * stride_wm.to(tl.int32) + k[:, None]  # [BLOCK_K, BLOCK_M], padded: no mask
    p_w = i_m.to(tl.int64) * BLOCK_M * stride_wm
    here = n < N - i_n * BLOCK_N
    p_x = x + i_b * K * N
    if X_ROW:
        p_x += i_n.to(tl.int64) * BLOCK_N
        o_x = n[:, None] + k[None, :] * N.to(tl.int32)  # [BLOCK_N, BLOCK_K]
    else:
        p_x += i_n.to(tl.int64) * BLOCK_N * K
        o_x = n[:, None] * K.to(tl.int32) + k[None, :]

    # Y is computed transposed: tensor cores take their first operand from registers, where X has
    # just been split; the halves of W go from memory to shared memory as they are.
    large = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    small = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for i_k in tl.range(0, tl.cdiv(K, BLOCK_K), num_stages=STAGES):
        o_k = i_k * BLOCK_K
        mask = here[:, None] & (k < K - o_k)[None, :]
        x_k = tl.load(p_x + o_k * (N if X_ROW else 1) + o_x, mask=mask, other=0.0)
        w_high = tl.load(high + (p_w + o_k) + o_w)
        w_low = tl.load(low + (p_w + o_k) + o_w)
        if IN_FLIGHT:
            x_k = tl.inline_asm_elementwise(
                ENDED, ENDED_CONSTRAINTS, [x_k], tl.float32, is_pure=True, pack=ENDED_PACK
            )
        x_high = upper_half(x_k)
        x_low = x_k - x_high
        small = tl.dot(x_low, w_high, small, input_precision="tf32")
        small = tl.dot(x_high, w_low, small, input_precision="tf32")
        large = tl.dot(x_high, w_high, large, input_precision="tf32")
    acc = large + small

    row = i_m * BLOCK_M + m
    if HAS_BIAS:
        acc += tl.load(bias + row, mask=row < M, other=0.0)[None, :]
    mask = here[:, None] & (row < M)[None, :]
    p_y = i_b * M * N
    if Y_ROW:
        p_y += i_m.to(tl.int64) * BLOCK_M * N + i_n * BLOCK_N
        o_y = n[:, None] + m[None, :] * N.to(tl.int32)
    else:
        p_y += i_n.to(tl.int64) * BLOCK_N * M + i_m * BLOCK_M
        o_y = n[:, None] * M.to(tl.int32) + m[None, :]
    if HAS_RESIDUAL:
        residual += p_y
    acc = finish(acc, row, o_y, mask, bias, residual, False, HAS_RESIDUAL, ACTIVATION)
    tl.store(y + p_y + o_y, acc, mask=mask)


@triton.jit
def upper_half(x):  # type: ignore[no-untyped-def]
    """x rounded to the 11 significant bits of TF32, ties away from zero."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


def tf32x3_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` on dense tiles: every float32 product as three of TF32.

    Shapes   W [M, K] pruned, written out as two dense halves, padded to whole tiles; x [batch, K,
             N], y [batch, M, N], float32, each in either layout.
    Grid     row blocks x column tiles x batch, either of the first two fastest.
    Program  one tile [block_m, block_n] of y; w = high + low and x = high + low, each half a TF32
             number (the low one up to its last bit). high*high goes to one accumulator,
             low*high + high*low to another; low*low is dropped; the two are added at the end.
    Cost     3 * 2*M*K*N flop on tensor cores, whatever the zeros; 8 bytes an element of W.
    Error    |y - y64| <= gamma(5 * nnz_row + 10 + 1 + 2) * (|W| @ |x| + |bias| + |residual|),
             derived in numerics, for |w| and |x| between 2**-102 and 2**127 or zero.
    Zeros    of W multiply: NaN or Inf in a column of x makes that column of y NaN in every row.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   Ootomo, Yokota, Recovering single precision accuracy from Tensor Cores while surpassing
             the FP32 theoretical peak performance, IJHPCA 2022.
    """
    problem, config = plan.problem, plan.config
    M, K, N = problem.M, problem.K, problem.N
    tile = tile_of(problem, config)
    halves = halves_for(plan.csr, tile.block_m)
    dependent = has_dependent_launch(plan.device.arch)
    return KernelSource(
        fn=spmm_tf32x3,
        constants={
            "X_ROW": problem.x_layout == "row",
            "Y_ROW": problem.y_layout == "row",
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": BLOCK_K,
            "STAGES": config.prefetch,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "DEPENDENT": dependent,
            "IN_FLIGHT": plan.device.arch // 10 == 9,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays={"high": halves.high, "low": halves.low},
        scalars={"M": M, "N": N, "K": K, "stride_wm": halves.high.shape[1]},
        grid=grid_of(config, ceil_div(M, tile.block_m), ceil_div(N, tile.block_n), problem.batch),
        num_warps=warps_of(tile, problem, plan.device),
        options={"launch_pdl": dependent},
    )
