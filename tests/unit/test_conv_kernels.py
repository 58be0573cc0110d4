"""Staged convolutions: their NumPy meaning against torch, their lists and bodies, their laws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import ConfigError
from sparse_triton.kernels import CONV_FAMILIES, families_of
from sparse_triton.kernels.conv.interpreter import interpret
from sparse_triton.kernels.conv.lists import lists_for
from sparse_triton.kernels.conv.program import conv_programs
from sparse_triton.kernels.conv.shape import shape_of
from sparse_triton.kernels.conv.tile import cells_of
from sparse_triton.kernels.conv.walk import SMALLEST_TURN
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.ops import Fma
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import ConvProblem, Epilogue, Pool
from sparse_triton.verify import call_ratio
from sparse_triton.verify_conv import conv_truth
from tests.conv_support import (
    FAMILIES,
    H100,
    Drawn,
    call_of,
    drawn_config,
    drawn_filter,
    drawn_problem,
)  # fmt: skip


def drawn_plan(seed: int, kernel: str) -> tuple[Drawn, Plan[ConvProblem]]:
    rng = np.random.default_rng([seed, *kernel.encode()])
    while True:
        drawn = drawn_problem(rng, seed, small=True)
        config = None if drawn is None else drawn_config(rng, drawn.problem, kernel)
        if drawn is not None and config is not None:
            return drawn, plan_spmm(drawn.problem, config, drawn.weight().csr, H100)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("kernel", FAMILIES)
def test_what_is_staged_and_multiplied_is_the_convolution(kernel: str, seed: int) -> None:
    drawn, plan = drawn_plan(seed, kernel)
    p, W = plan.problem, drawn.weight()
    X = torch.randn(p.batch, p.C, p.H, p.W, generator=torch.Generator().manual_seed(seed))
    Y = torch.from_numpy(interpret(plan, X.numpy()))
    bare = replace(p, pool=None, epilogue=Epilogue())
    call = call_of(bare, X, None, None)
    if p.pool is not None:  # pixels that no window reads are not computed
        Y = torch.where(Y.isnan(), torch.from_numpy(conv_truth(W, call)[0]).float(), Y)
    assert call_ratio(Y, W, call, plan.config) <= 1.0


@pytest.mark.parametrize("kernel", FAMILIES)
def test_the_family_s_reference_is_one_image(kernel: str) -> None:
    _, plan = drawn_plan(3, kernel)
    p = plan.problem
    X = np.random.default_rng(0).standard_normal((p.C, p.H, p.W)).astype(np.float32)
    Y = plan.family.reference(plan, X)
    assert Y.shape == (p.M, p.P, p.Q)


@pytest.mark.parametrize("seed", range(6))
def test_every_non_zero_is_in_one_list(seed: int) -> None:
    drawn, plan = drawn_plan(seed, "gather")
    W, packed, shape = drawn.weight(), lists_for(plan), shape_of(plan)
    cells = cells_of(plan.problem, shape.tile)
    expected = {
        (int(row), int(cells.chunk[k]), 4 * int(cells.cell[k]), float(value))
        for row, k, value in zip(W.csr.rows, W.csr.column_indices, W.csr.values, strict=True)
    }
    found = [
        (int(packed.rows[b, place]), chunk, int(offset), float(np.int32(bits).view(np.float32)))
        for b, chunk, g, place in np.ndindex(packed.runs.shape[:-1])
        for offset, bits in packed.pairs[packed.runs[b, chunk, g, place, 0] :][
            : packed.runs[b, chunk, g, place, 1]
        ]
    ]
    products = [pair for pair in found if pair[2] != 4 * shape.tile.zeros]
    assert len(products) == W.nnz
    assert set(products) == expected
    assert all(length % SMALLEST_TURN == 0 for length in packed.runs[..., 1].ravel())


def test_every_non_zero_is_multiplied_once() -> None:
    drawn, plan = drawn_plan(1, "unrolled")
    bodies = [body for program in conv_programs(plan) for body in program.bodies]
    assert sum(isinstance(op, Fma) for body in bodies for op in body) == drawn.weight().nnz


def test_cells_lie_inside_the_tile() -> None:
    for seed in range(12):
        for kernel in FAMILIES:
            _, plan = drawn_plan(seed, kernel)
            tile = shape_of(plan).tile
            furthest = (tile.repeat - 1) * tile.step + tile.lanes - 1
            assert 4 * (int(cells_of(plan.problem, tile).cell.max()) + furthest + 1) <= tile.bytes


RESNET = ConvProblem(1, 64, 56, 56, 64, 3, 3, 3700, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("config", "law"),
    [
        (KernelConfig("gather", 8, 14, vector=2, row_blocks="even_nnz"), "vector must be 1"),
        (KernelConfig("gather", 8, 14, repeat=3, row_blocks="even_nnz"), "repeat must be a power"),
        (KernelConfig("gather", 8, 14, K_blocks=3, row_blocks="even_nnz"), "K_blocks must be"),
        (KernelConfig("gather", 64, 14, K_blocks=4, row_blocks="even_nnz"), "finish a share of"),
        (KernelConfig("gather", 1, 1, row_blocks="even_nnz"), "threads must be a power of two"),
        (KernelConfig("gather", 64, 56, row_blocks="even_rows"), "row_blocks must be one of"),
        (KernelConfig("gather", 8, 14, Gy=3, row_blocks="even_nnz"), "Gy must be a power of two"),
        (KernelConfig("unrolled", 1, 28, prefetch=200), "registers"),
        (
            KernelConfig("gather", 16, 7, repeat=4, row_blocks="even_nnz", window_kb=200),
            "exceed the",
        ),
    ],
)  # fmt: skip
def test_laws(config: KernelConfig, law: str) -> None:
    reason = why_not(RESNET, config, H100)
    assert reason is not None
    assert law in reason
    with pytest.raises(ConfigError, match="cannot run conv 3x3 64->64 on 56x56"):
        plan_spmm(RESNET, config, drawn_filter(RESNET, "random", 0.1, 0).csr, H100)


def test_a_channel_of_a_tile_must_not_be_too_large_to_stage() -> None:
    p = ConvProblem(1, 1, 64, 64, 64, 63, 63, 1000, padding=(31, 31, 31, 31))
    config = KernelConfig("gather", 64, 64, Gy=2, repeat=4, row_blocks="even_nnz")
    assert "would stage" in str(why_not(p, config, H100))


def test_clusters_need_hopper() -> None:
    config = KernelConfig("gather", 8, 14, K_blocks=2, repeat=4, row_blocks="even_nnz")
    assert why_not(RESNET, config, H100) is None
    assert "sm_90" in str(why_not(RESNET, config, Device.virtual_cuda(80)))


def test_too_many_non_zeros_for_a_program() -> None:
    config = CONV_FAMILIES["unrolled"].default_config(RESNET, H100)
    assert why_not(RESNET, config, H100) is None
    assert "use kernel='gather'" in str(why_not(replace(RESNET, nnz=500_000), config, H100))


@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("nothing", [{"nnz": 0}, {"batch": 0}, {"M": 0}])
def test_nothing_to_multiply(kernel: str, nothing: dict[str, int]) -> None:
    config = KernelConfig(kernel, row_blocks="even_nnz")
    assert "nothing to multiply" in str(why_not(replace(RESNET, **nothing), config, H100))


@pytest.mark.parametrize("kernel", FAMILIES)
def test_defaults_are_legal(kernel: str) -> None:
    for pool in (None, Pool("max", (2, 2), (2, 2))):
        for size, channels in ((224, 64), (112, 128), (56, 256), (28, 512), (14, 512), (7, 512)):
            for batch in (1, 32):
                for stride in (1, 2):
                    p = ConvProblem(
                        batch, channels, size, size, channels, 3, 3, channels**2,
                        padding=(1, 1, 1, 1), stride=(stride, stride), pool=pool,
                    )  # fmt: skip
                    config = families_of(p)[kernel].default_config(p, H100)
                    assert why_not(p, config, H100) is None, (p, config)


def test_the_triton_staging_is_its_numpy_meaning() -> None:
    """To the last cell, for both layouts, under Triton's interpreter."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(root)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.interpreted_conv"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) >= 12
    assert [case["case"] for case in cases if not case["agrees"]] == []
