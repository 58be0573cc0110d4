"""What the kernels of a convolution are compiled from, and how many launches they are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div, grid_of
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.conv.exchange import emit_exchange, emit_window
from sparse_triton.kernels.conv.kernel import conv_gather, conv_unrolled
from sparse_triton.kernels.conv.launches import launches
from sparse_triton.kernels.conv.lists import lists_for
from sparse_triton.kernels.conv.program import conv_programs, emit_program
from sparse_triton.kernels.conv.shape import Shape, image_of, shape_of
from sparse_triton.kernels.conv.walk import Walk, emit_walk
from sparse_triton.kernels.epilogue import epilogue_constants
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.schedule import Program
from sparse_triton.problem import ConvProblem


def conv_sources(plan: Plan[ConvProblem]) -> list[KernelSource]:
    """Kernels ``y = pool(epilogue(conv(x, W)))``, implicit im2col through staged tiles of x.

    Shapes   W [M, C*R*S] pruned; x [batch, C, H, W], y [batch, M, P, Q] (or pooled), each NCHW or
             channels-last, any stride, padding and dilation.
    Grid     row blocks x tiles of an image x images, either of the first two fastest; a cluster of
             K_blocks programs for each, one range of channels a program.
    Program  stages its channels of a zero-padded tile of x as float32 in shared memory, chunk by
             chunk, so that nothing after it tests for borders; Gy groups of threads share the
             non-zeros of a chunk. gather walks lists of (cell, value), one row a thread; unrolled
             runs a body with cells and values as immediates, all rows of the block in each lane.
             The Gy * K_blocks partials are added in order. A pool reads the finished pixels of the
             program's rows from shared memory: where windows of two tiles overlap, both tiles
             compute those pixels.
    Launches one after the other, each some row blocks of a long unrolled program.
    Cost     2*nnz*P*Q flop; x is staged once per row block, halo included; gather reads 4 bytes of
             shared memory a product, unrolled as much for each used column and row block.
    Error    |y - y64| <= gamma(nnz_row + parts + 2) * (|W| @ |x| + |bias| + |residual|).
    Repeat   same plan, same input: same bits (no atomics).
    Raises   nothing: a plan that exists is legal.
    Source   the staged, halo-extended tile: common to all direct convolutions; Chen, Escort, 2018,
             and Wang, SparseRT, PACT 2020, for virtual columns of a sparse filter.
    """
    shape = shape_of(plan)
    if plan.config.kernel == "gather":
        return [
            _source(plan, shape, ceil_div(plan.problem.M, shape.block_m), *_gathers(plan, shape))
        ]
    programs = conv_programs(plan)
    return [
        _source(plan, shape, last - first, *_unrolls(programs, first, last, shape))
        for first, last in pairwise(launches(plan.problem, shape, plan.device))
    ]


def _source(
    plan: Plan[ConvProblem],
    shape: Shape,
    blocks: int,
    texts: dict[str, Any],
    arrays: dict[str, Any],
) -> KernelSource:
    problem, config = plan.problem, plan.config
    dependent = has_dependent_launch(plan.device.arch)
    opened, exchange = emit_window(shape), emit_exchange(shape)
    tile = shape.tile
    return KernelSource(
        fn=conv_gather if config.kernel == "gather" else conv_unrolled,
        constants={
            "SHAPE": shape,
            "IMAGE": image_of(problem),
            "FASTEST": config.fastest,
            "DEPENDENT": dependent,
            "SHARED": opened.text,
            "SHARED_CONSTRAINTS": opened.constraints,
            **texts,
            "EXCHANGE": exchange.text,
            "EXCHANGE_CONSTRAINTS": exchange.constraints,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays=arrays,
        scalars={},
        grid=grid_of(config, blocks, tile.tiles, ceil_div(problem.batch, tile.images)),
        num_warps=shape.threads // 32,
        options={"launch_pdl": dependent},
        window_bytes=shape.shared_bytes,
        cluster=config.K_blocks,
    )


def _gathers(plan: Plan[ConvProblem], shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    walk = emit_walk(Walk(shape.repeat, shape.tile.step * 4, shape.depth, shape.batch))
    packed = lists_for(plan)
    arrays = {
        "pairs": packed.pairs.view("int64"),
        "runs": packed.runs.view("int64"),
        "rows": packed.rows,
    }
    return {"ASM": walk.text, "CONSTRAINTS": walk.constraints}, arrays


def _unrolls(
    programs: list[Program], first: int, last: int, shape: Shape
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of row blocks ``first ... last - 1``; a program for each chunk that is staged."""
    some = [p.some_blocks(first, last) for p in programs]
    asm = [emit_program(p, shape) for p in some]
    texts = {"ASM": tuple(a.text for a in asm), "CONSTRAINTS": asm[0].constraints}
    return texts, {"rows": some[0].rows}
