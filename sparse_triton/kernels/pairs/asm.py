"""Family ``pairs`` in PTX: the loop over K, W split in registers, the products.

All threads fetch X of a later step while the tensor cores work on this one. Three stages, so that
one barrier a step is enough: who passes the barrier of step i has finished the products of step
i - 2, and step i + 1 writes where those of step i - 2 read.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import LAUNCH_DEPENDENTS, UID, WAIT_FOR_INPUTS, Asm, Operands
from sparse_triton.kernels.pairs.limits import ALIGNMENT, Tile
from sparse_triton.kernels.pairs.stage import (
    declare_x,
    in_half,
    load_order,
    load_x,
    split,
    store_x,
    window,
)

VALUES_BYTES, SELECTORS_BYTES = 2 * 128 * 16, 128 * 8  # of one 64-row tile and step
# Shared-memory descriptor of X: 128-byte swizzle, 1024 bytes from 8 columns to the next 8.
DESCRIPTOR_HIGH = (1 << 30) | (ALIGNMENT >> 4)
DESCRIPTOR_LOW = 1 << 16
# Selectors lie in memory with this taken off. Some instruction has to come between their fetching
# and the products that read them anyway: ptxas (12.8, 13.0) else lets no two products overlap.
FIRST_OF_ALL = (0x44444444, 0x88888888)


def emit(tile: Tile, dependent_launch: bool) -> Asm:
    """Inputs, in order: pointers to this thread's values, selectors, order of K and column of X;
    bytes between rows of X; steps; number of the thread. Outputs: its sums, as ``wgmma`` lays them
    out, tile by tile."""
    operands = Operands()
    outs = [operands.new("=f") for _ in range(tile.outputs)]
    values, selectors, order, x, stride, steps, thread = (operands.new(c) for c in "llllrrr")
    lines = [
        *_declare(tile),
        *([LAUNCH_DEPENDENTS] if dependent_launch else []),
        f"mov.b64 pv, {values};",
        f"mov.b64 ps, {selectors};",
        f"mov.b64 po, {order};",
        f"mov.b64 px, {x};",
        f"mov.b32 stride, {stride};",
        f"shr.u32 left, {steps}, 1;",
        *window(tile, thread),
        *_load_weight(tile),
        *load_order(tile),
        *([WAIT_FOR_INPUTS] if dependent_launch else []),
        *(line for i in range(tile.ahead) for line in (*load_x(tile, i), *load_order(tile))),
        f"STEP{UID}:",
        *_step(tile, 0),
        *_step(tile, 1),
        "sub.s32 left, left, 1;",
        "setp.gt.s32 more, left, 0;",
        f"@more bra STEP{UID};",
        "wgmma.wait_group.sync.aligned 0;",
        *(f"add.f32 {out}, large{j}, small{j};" for j, out in enumerate(outs)),
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", ",".join(operands.constraints))


def _declare(tile: Tile) -> Iterator[str]:
    """``v, w``: values and selectors as they are fetched. What products of even and odd steps read,
    for each 64-row tile: ``h``, high halves; ``m``, those and the low halves in bfloat16; ``s``,
    selectors."""
    yield from declare_x(tile)
    yield ".reg .b64 pv, ps, d<4>;"
    yield ".reg .b32 left, e;"
    yield f".reg .b32 v<{8 * tile.stack}>, w<{2 * tile.stack}>, s<{4 * tile.stack}>;"
    yield f".reg .b32 h<{16 * tile.stack}>, m<{16 * tile.stack}>;"
    yield f".reg .f32 large<{tile.outputs}>, small<{tile.outputs}>;"
    yield ".reg .pred more, yes;"
    yield "setp.eq.u32 yes, 0, 0;"
    for j in range(tile.outputs):
        yield f"mov.f32 large{j}, 0f00000000;"
        yield f"mov.f32 small{j}, 0f00000000;"


def _load_weight(tile: Tile) -> Iterator[str]:
    for r in range(tile.stack):
        for product in range(2):
            names = ", ".join(f"v{8 * r + 4 * product + j}" for j in range(4))
            yield f"ld.global.v4.b32 {{{names}}}, [pv+{(2 * r + product) * VALUES_BYTES // 2}];"
        yield f"ld.global.v2.b32 {{w{2 * r}, w{2 * r + 1}}}, [ps+{r * SELECTORS_BYTES}];"
    yield f"add.s64 pv, pv, {tile.tiles * VALUES_BYTES};"
    yield f"add.s64 ps, ps, {tile.tiles * SELECTORS_BYTES};"


def _split_weight(tile: Tile, parity: int) -> Iterator[str]:
    for r in range(tile.stack):
        v, h = 8 * r, 8 * (tile.stack * parity + r)
        for j, first in enumerate((0, 1, 4, 5)):
            for i in (first, first + 2):
                yield from split(f"v{v + i}", f"h{h + i}", f"z{i}")
            yield in_half(f"m{h + j}", f"h{h + first}", f"h{h + first + 2}")
            yield in_half(f"m{h + 4 + j}", f"z{first}", f"z{first + 2}")
        for j, code in enumerate(FIRST_OF_ALL):
            yield f"xor.b32 s{2 * (tile.stack * parity + r) + j}, w{2 * r + j}, {code};"


def _step(tile: Tile, parity: int) -> Iterator[str]:
    yield from store_x(tile, parity)
    yield from load_x(tile, parity)
    yield from load_order(tile)
    yield from _split_weight(tile, parity)
    yield from _load_weight(tile)
    yield "fence.proxy.async.shared::cta;"
    yield "bar.sync 0;"
    yield from _products(tile, parity)
    yield "wgmma.wait_group.sync.aligned 1;"
    yield f"add.u32 cur, cur, {tile.stage_bytes};"
    yield "setp.ge.u32 more, cur, end;"
    yield "@more mov.b32 cur, base;"


def _products(tile: Tile, parity: int) -> Iterator[str]:
    """d0, d1: X's high halves of the two TF32 products; d2, d3: X and its low halves."""
    yield "shr.u32 o, cur, 4;"
    yield f"or.b32 o, o, {DESCRIPTOR_LOW};"
    yield f"mov.b32 e, {DESCRIPTOR_HIGH};"
    for i in range(4):
        yield f"add.u32 c, o, {(i // 2 * tile.half_bytes + i % 2 * 64) >> 4};"
        yield f"mov.b64 d{i}, {{c, e}};"
    yield "wgmma.fence.sync.aligned;"
    for r in range(tile.stack):
        at = tile.stack * parity + r
        yield _product(tile, r, "small", "k32.f32.bf16.bf16", "m{}", 8 * at + 4, 2, at, 0)
        yield _product(tile, r, "large", "k16.f32.tf32.tf32", "h{}", 8 * at, 0, at, 0)
        yield _product(tile, r, "small", "k32.f32.bf16.bf16", "m{}", 8 * at, 3, at, 0)
        yield _product(tile, r, "large", "k16.f32.tf32.tf32", "h{}", 8 * at + 4, 1, at, 1)
    yield "wgmma.commit_group.sync.aligned;"


def _product(
    tile: Tile, r: int, acc: str, kind: str, w: str, of: int, d: int, at: int, lanes: int
) -> str:
    """``lanes``: which two of four hold the selectors."""
    each = tile.block_n // 2
    sums = ", ".join(f"{acc}{r * each + j}" for j in range(each))
    words = ", ".join(w.format(of + j) for j in range(4))
    half = acc == "small"
    return (
        f"wgmma.mma_async.sp.sync.aligned.m64n{tile.block_n}{kind} "
        f"{{{sums}}}, {{{words}}}, d{d}, s{2 * at + half}, {lanes}, yes, 1, 1{', 0' * half};"
    )
