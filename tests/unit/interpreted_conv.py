"""Runs the staging of convolutions under Triton's interpreter against its NumPy meaning.

A program of its own, because Triton reads ``TRITON_INTERPRET`` when a kernel is defined:
``TRITON_INTERPRET=1 python -m tests.unit.interpreted_conv``. Shared memory is a tensor here; prints
one JSON line a case.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
import triton
import triton.language as tl

from sparse_triton.kernels.conv import stage
from sparse_triton.kernels.conv.interpreter import Place, staged
from sparse_triton.kernels.conv.shape import gather_shape, image_of, unrolled_shape
from tests.conv_support import FAMILIES, drawn_config, drawn_problem

CASES = 24


@triton.jit
def put(address, value, mask):  # type: ignore[no-untyped-def]
    """Stands in for the store to shared memory."""
    tl.store(address.to(tl.pointer_type(tl.float32), bitcast=True), value, mask=mask)


@triton.jit
def fetch(p_x, mask):  # type: ignore[no-untyped-def]
    """Stands in for the load of an element of X."""
    return tl.load(p_x, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def opaque(x):  # type: ignore[no-untyped-def]
    """Stands in for a move that the compiler does not look into."""
    return x


@triton.jit
def stage_all(x, memory, i_b, p_0, q_0, c_0, SHAPE: tl.constexpr, IMAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    THREADS: tl.constexpr = SHAPE.threads
    STAGING: tl.constexpr = SHAPE.staging
    SIZE: tl.constexpr = SHAPE.piece
    thread = tl.arange(0, THREADS)
    tile = memory.to(tl.int64) + thread.to(tl.int64) * 0
    stage.put_zeros(tile, thread, SHAPE)
    for i in tl.static_range(0, STAGING, SIZE):
        values = stage.load_tile(x, thread, i_b, p_0, q_0, c_0, i // SIZE, SHAPE, IMAGE)
        stage.put_tile(tile, thread, values, i // SIZE, SHAPE, IMAGE)


def agrees(seed: int) -> tuple[str, bool] | None:
    """Whether one chunk of one tile is what the NumPy meaning says, to the last cell."""
    rng = np.random.default_rng([77, seed])
    kernel = FAMILIES[seed % 2]
    drawn = drawn_problem(rng, seed, small=seed % 3 > 0)
    if drawn is None:
        return None
    p = replace(drawn.problem, x_dtype="float32")
    config = drawn_config(rng, p, kernel)
    if config is None:
        return None
    shape = (gather_shape if kernel == "gather" else unrolled_shape)(p, config)
    tile = shape.tile
    X = torch.randn(p.batch, p.C, p.H, p.W, generator=torch.Generator().manual_seed(seed))
    layout = X if p.x_layout == "row" else X.permute(0, 2, 3, 1).contiguous()
    i_p, i_q = int(rng.integers(tile.rows.tiles)), int(rng.integers(tile.columns.tiles))
    at = Place(
        int(rng.integers(-(-p.batch // tile.images))) * tile.images,
        i_p * tile.rows.step + tile.rows.first,
        i_q * tile.columns.step + tile.columns.first,
    )
    c_0 = int(rng.integers(shape.K_blocks * tile.chunks)) * tile.channels
    memory = torch.full((tile.bytes // 4 + 8,), float("nan"))
    stage_all[(1,)](layout, memory, *at, c_0, shape, image_of(p))
    want = np.append(staged(shape, X.numpy(), at, c_0), np.full(8, np.nan, dtype=np.float32))
    return f"{p} {config}", np.array_equal(memory.numpy(), want, equal_nan=True)


if __name__ == "__main__":
    stage.put, stage.fetch, stage.opaque = put, fetch, opaque
    for seed in range(CASES):
        found = agrees(seed)
        if found is not None:
            print(json.dumps({"case": found[0], "agrees": found[1]}), flush=True)
