"""The kernel of a plan of family ``decode``."""

from __future__ import annotations

from sparse_triton.build import KernelSource
from sparse_triton.kernels.decode.bitmap_kernel import bitmap_source
from sparse_triton.kernels.decode.walk_kernel import walk_source
from sparse_triton.kernels.family import Plan


def decode_source(plan: Plan) -> KernelSource:
    """Kernel ``y = epilogue(W @ x)`` that reads W compressed, once for a tile of columns.

    Shapes   W [M, K] pruned; x [batch, K, N], y [batch, M, N], each in either layout, N small.
    Grid     row blocks x column tiles x batch, either of the first two fastest.
    Program  Lists: block_m rows x Gy pieces of each row's list, one thread each; x is staged in
             shared memory, threads gather and multiply. Bitmap: 16 or 32 rows x Gy pieces of K, one
             warp each; elements are expanded in registers and multiplied on tensor cores. The Gy
             partials are added in piece order.
    Cost     2*nnz*N flop. Bytes of W: 2 and an index of 4, 8 or 16 bits a non-zero; with a bitmap
             2 a non-zero and a bit an element.
    Error    |y - y64| <= gamma(step*nnz_row + Gy + 2) * (|W| @ |x| + |bias| + |residual|), see
             numerics; step = 1, on tensor cores 2.
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal, see ``plan_spmm``.
    """
    return bitmap_source(plan) if plan.config.format == "bitmap" else walk_source(plan)
