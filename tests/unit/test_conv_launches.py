"""Long unrolled convolutions are cut into launches that compile quickly and fill the device."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from sparse_triton.device import Device
from sparse_triton.heuristics import COMPILED_CONV, MOST_COMPILED_CONV, default_config
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.kernels.conv.launches import SHORT_LAUNCH, compiled_together, launches
from sparse_triton.kernels.conv.shape import Shape, unrolled_shape
from sparse_triton.problem import ConvProblem

H100 = replace(Device.virtual_cuda(90), shared_bytes=227 * 1024)
LONG = ConvProblem(32, 512, 28, 28, 512, 3, 3, 235_930, padding=(1, 1, 1, 1))


def shape_of(p: ConvProblem) -> Shape:
    return unrolled_shape(p, CONV_FAMILIES["unrolled"].default_config(p, H100))


@pytest.mark.parametrize("density", [0.025, 0.05, 0.1])
@pytest.mark.parametrize("M", [512, 480])
def test_launches_share_the_row_blocks_and_fill_the_device(density: float, M: int) -> None:
    p = replace(LONG, M=M, nnz=round(density * M * LONG.K))
    shape = shape_of(p)
    cuts = launches(p, shape, H100)
    assert cuts[0] == 0
    assert cuts[-1] == -(-p.M // shape.block_m)
    programs = shape.tile.tiles * p.batch
    for first, last in list(pairwise(cuts))[:-1]:
        assert (last - first) * programs % H100.cores >= 0.93 * H100.cores
    assert compiled_together(p, shape, H100) <= COMPILED_CONV


@pytest.mark.parametrize("p", [replace(LONG, nnz=SHORT_LAUNCH), replace(LONG, batch=1)], ids=str)
def test_one_launch_where_it_is_short_or_pixels_are_few(p: ConvProblem) -> None:
    shape = shape_of(p)
    assert launches(p, shape, H100) == [0, -(-p.M // shape.block_m)]


def test_what_is_compiled_side_by_side_is_taken_untuned() -> None:
    assert default_config(LONG, H100).kernel == "unrolled"
    assert default_config(replace(LONG, nnz=MOST_COMPILED_CONV + 1), H100).kernel == "gather"
    assert default_config(replace(LONG, H=14, W=14), H100).kernel == "gather"
    assert default_config(replace(LONG, H=7, W=7), H100).kernel == "gather"
