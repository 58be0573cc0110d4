"""Family ``pairs`` in PTX: who does what, and how they wait for each other.

A ring of stages in shared memory. Two groups of warps fill it (``stage``), two multiply
(``products``): a warp that has issued a product with W in registers is held until it runs, so that
only other warps can work meanwhile. A stage is ``full`` when W's bytes and all threads' X have
arrived, ``empty`` when the products that read it have ended.
"""

from __future__ import annotations

from sparse_triton.kernels.columns import LAUNCH_DEPENDENTS, UID, WAIT_FOR_INPUTS, Asm, Operands
from sparse_triton.kernels.pairs.limits import (
    FETCHING,
    MULTIPLYING,
    THREADS,
    Tile,
)
from sparse_triton.kernels.pairs.products import declare_products, multiply
from sparse_triton.kernels.pairs.ring import begin, declare_ring
from sparse_triton.kernels.pairs.stage import declare_stage, fill


def emit(tile: Tile, dependent_launch: bool) -> Asm:
    """Inputs, in order: pointers to the row block's values and selectors, to this thread's order of
    K and column of X; bytes between rows of X; steps; number of the thread. Outputs: its sums, as
    ``wgmma`` lays them out, tile by tile. Only the first ``THREADS`` threads come out."""
    operands = Operands()
    outs = [operands.new("=f") for _ in range(tile.outputs)]
    values, selectors, order, x, stride, steps, thread = (operands.new(c) for c in "llllrrr")
    wait = [WAIT_FOR_INPUTS] if dependent_launch else []
    lines = [
        *declare_ring(),
        *declare_products(tile),
        *declare_stage(tile),
        *([LAUNCH_DEPENDENTS] if dependent_launch else []),
        f"mov.b32 left, {steps};",
        f"mov.b32 thread, {thread};",
        *begin(tile),
        "shfl.sync.idx.b32 t, thread, 0, 31, -1;",
        f"setp.ge.u32 more, t, {THREADS};",
        f"@more bra FETCH{UID};",
        f"setmaxnreg.inc.sync.aligned.u32 {MULTIPLYING};",
        *wait,
        *multiply(tile, outs),
        f"bra DONE{UID};",
        f"FETCH{UID}:",
        f"setmaxnreg.dec.sync.aligned.u32 {FETCHING};",
        f"mov.b64 pv, {values};",
        f"mov.b64 ps, {selectors};",
        f"mov.b64 po, {order};",
        f"mov.b64 px, {x};",
        f"mov.b32 stride, {stride};",
        *fill(tile, wait),
        "exit;",
        f"DONE{UID}:",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))
