"""The Triton kernel of family ``gather``; plain Triton, so it also runs under the interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.epilogue import finish
from sparse_triton.kernels.gather import gather_shape, packed_for

if TYPE_CHECKING:
    from sparse_triton.plan import Plan


@triton.jit
def spmm_gather(  # type: ignore[no-untyped-def]
    x, y, bias, residual, columns, values, starts, rows,
    N, stride_xk, stride_xn, stride_xb, stride_ym, stride_yn, stride_yb,
    GY: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, UNROLL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    i_m = tl.program_id(0)
    i_b = tl.program_id(2).to(tl.int64)
    place = tl.arange(0, GY * BLOCK_M)  # group-major
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = (o_n < N)[None, :]
    p_x = x + i_b * stride_xb + o_n[None, :] * stride_xn  # [1, BLOCK_N]

    acc = tl.zeros([GY * BLOCK_M, BLOCK_N], dtype=tl.float32)
    stop = tl.load(starts + i_m + 1)
    for t in range(tl.load(starts + i_m), stop, UNROLL):
        for u in tl.static_range(UNROLL):
            o_pair = (t + u) * (GY * BLOCK_M) + place
            k = tl.load(columns + o_pair)[:, None]  # [GY * BLOCK_M, 1]
            w = tl.load(values + o_pair)[:, None]
            x_k = tl.load(p_x + k * stride_xk, mask=(k >= 0) & m_n, other=0.0)
            acc += w * x_k.to(tl.float32)

    if GY > 1:
        acc = tl.sum(tl.reshape(acc, [GY, BLOCK_M, BLOCK_N]), axis=0)
    row = tl.load(rows + i_m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]  # -1: padding
    mask = (row >= 0) & m_n
    o_y = i_b * stride_yb + row * stride_ym + o_n[None, :] * stride_yn
    out = finish(acc, row, o_y, mask, bias, residual, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)
    tl.store(y + o_y, out.to(y.dtype.element_ty), mask=mask)


def gather_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` that walks packed (column, value) pairs.

    Shapes   W [M, K] pruned; x [batch, K, N], y [batch, M, N], each in either layout.
    Grid     (M_blocks, N_blocks, batch): program (i, j, b) owns row block i and column tile j;
             row blocks are fastest, so that neighbours share a column tile of x in the caches.
    Program  block_m rows x Gy runs of each row, side by side; the Gy partials are added in order.
    Cost     2*nnz*N flop and nnz*N*itemsize bytes of x through L1; W once per column tile.
    Error    |y - y64| <= gamma(nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see numerics.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    Source   row swizzle: Gale, Zaharia, Young, Elsen, Sparse GPU Kernels for Deep Learning,
             SC 2020.
    """
    problem, config = plan.problem, plan.config
    M, K, N = problem.M, problem.K, problem.N
    block_m, block_n = gather_shape(problem, config)
    packed = packed_for(plan)
    x_k, x_n = (N, 1) if problem.x_layout == "row" else (1, K)
    y_m, y_n = (N, 1) if problem.y_layout == "row" else (1, M)
    epilogue = problem.epilogue
    return KernelSource(
        fn=spmm_gather,
        constants={
            "GY": config.Gy,
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "UNROLL": config.prefetch,
            "HAS_BIAS": epilogue.bias,
            "HAS_RESIDUAL": epilogue.residual,
            "ACTIVATION": epilogue.activation,
        },
        x_dtype=problem.x_dtype,
        arrays={
            "columns": packed.columns,
            "values": packed.values,
            "starts": packed.starts,
            "rows": packed.rows,
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
        grid=(packed.rows.shape[0], ceil_div(N, block_n), problem.batch),
        num_warps=config.Gy * block_m * block_n // config.vector // 32,
    )
