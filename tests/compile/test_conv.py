"""What ptxas makes of staged convolutions: each product once, no spills, no test of borders."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from autotune.parcel import pack, unpack
from sparse_triton.build import TritonKernel, parts_of, resources, sass
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import families_of
from sparse_triton.kernels.conv.program import conv_programs
from sparse_triton.kernels.conv.shape import shape_of
from sparse_triton.kernels.family import Plan
from sparse_triton.kernels.unrolled.ops import Load
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import ConvProblem, Epilogue, Layout, Pool
from tests.conv_support import FAMILIES, H100, drawn_config, drawn_filter, drawn_problem

LAYER = ConvProblem(1, 16, 14, 14, 32, 3, 3, 450, padding=(1, 1, 1, 1))
UNROLLED = (
    KernelConfig("unrolled", M_blocks=2, N_blocks=2, Gy=2),
    KernelConfig("unrolled", M_blocks=4, N_blocks=1, Gy=1, repeat=2, prefetch=4),
    KernelConfig("unrolled", M_blocks=2, N_blocks=4, Gy=4, row_blocks="even_nnz"),
    KernelConfig("unrolled", M_blocks=2, N_blocks=1, starts=2),
)
GEOMETRIES = (
    LAYER,
    replace(LAYER, stride=(2, 2)),
    replace(LAYER, dilation=(2, 1), padding=(0, 3, 1, 0)),
    replace(LAYER, pool=Pool("max", (2, 2), (2, 2))),
)


@cache
def built(
    p: ConvProblem, config: KernelConfig, arch: int
) -> tuple[Plan[ConvProblem], TritonKernel]:
    W = drawn_filter(p, "random", 0.1, 0)
    plan = plan_spmm(replace(p, nnz=W.nnz), config, W.csr, Device.virtual_cuda(arch))
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    return plan, kernel


@pytest.mark.parametrize(
    ("p", "config"),
    [*((LAYER, c) for c in UNROLLED), *((p, UNROLLED[0]) for p in GEOMETRIES[1:])],
    ids=str,
)
def test_unrolled_machine_code(p: ConvProblem, config: KernelConfig) -> None:
    plan, kernel = built(p, config, 90)
    code = sass(kernel)
    shape = shape_of(plan)
    assert len(re.findall(r"\bFFMA\b", code)) == plan.problem.nnz * shape.repeat
    bodies = [body for program in conv_programs(plan) for body in program.bodies]
    loads = sum(isinstance(op, Load) for body in bodies for op in body) * shape.repeat
    exchanged = shape.held * shape.parts if shape.parts > 1 else 0
    from_cluster = len(re.findall(r"\bLD\.E|\bLDS\.\w*CLUSTER|\bLD\b", code))
    shared = len(re.findall(r"\bLDS\b", code)) + from_cluster
    windows = 4 * shape.slots * shape.lanes // shape.threads if p.pool else 0
    assert loads <= shared <= loads + exchanged + windows
    used = resources(kernel)
    assert used.spill_bytes == 0
    assert used.shared_bytes <= 49 * 1024


@pytest.mark.parametrize("kernel", FAMILIES)
def test_no_test_of_borders_among_the_products(kernel: str) -> None:
    """Between the first and the last product nothing compares but the walk's own counters."""
    config = {
        "gather": KernelConfig("gather", 4, 1, Gy=1, repeat=4, row_blocks="even_nnz"),
        "unrolled": UNROLLED[1],
    }[kernel]
    _, compiled = built(LAYER, config, 90)
    text = compiled.source.constants["ASM"]
    text = text if isinstance(text, str) else text[0]
    compared = re.findall(r"setp\.\w+\.s32 (\w+), (\w+)", text)
    assert {operand for _, operand in compared} <= {"left", "here", "o"}
    assert len(re.findall(r"ld\.global", text)) == (1 if kernel == "gather" else 0)  # pairs


@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize(
    ("arch", "x_dtype", "layout"),
    [(80, "float32", "row"), (90, "float16", "column"), (100, "bfloat16", "row")],
)
def test_defaults_compile_without_spills(
    arch: int, x_dtype: str, layout: Layout, kernel: str
) -> None:
    epilogue = Epilogue(bias=True, residual=True, activation="silu")
    p = replace(LAYER, x_dtype=x_dtype, x_layout=layout, y_layout=layout, epilogue=epilogue)
    config = families_of(p)[kernel].default_config(p, Device.virtual_cuda(arch))
    assert resources(built(p, config, arch)[1]).spill_bytes == 0


@pytest.mark.parametrize("seed", range(6))
def test_drawn_configurations_do_not_spill(seed: int) -> None:
    rng = np.random.default_rng([11, seed])
    drawn = None
    while drawn is None:
        drawn = drawn_problem(rng, seed)
    config = drawn_config(rng, drawn.problem, FAMILIES[seed % 2])
    assert config is not None
    plan = plan_spmm(drawn.problem, config, drawn.weight().csr, H100)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    assert resources(kernel).spill_bytes == 0


@pytest.mark.parametrize("config", UNROLLED, ids=str)
def test_triton_sees_no_load_for_each_element(config: KernelConfig) -> None:
    """It would take the square of their number to compile them."""
    plan, kernel = built(LAYER, config, 90)
    assert kernel.compiled.asm["ttir"].count("tt.load") <= 2 * shape_of(plan).held_rows


def test_long_programs_are_launched_in_turn(tmp_path: Path) -> None:
    p = ConvProblem(H100.cores, 96, 28, 28, 96, 3, 3, 0, padding=(1, 1, 1, 1))
    W = drawn_filter(p, "random", 0.25, 0)
    config = KernelConfig("unrolled", 3, 1, starts=8, prefetch=4, window_kb=96)
    plan = plan_spmm(replace(p, nnz=W.nnz), config, W.csr, H100)
    pack(plan.family.build(plan), tmp_path / "a.parcel")
    parts = parts_of(unpack(tmp_path / "a.parcel"))
    assert [part.source.grid for part in parts] == [(2, 1, H100.cores), (1, 1, H100.cores)]
    products = sum(len(re.findall(r"\bFFMA\b", sass(part))) for part in parts)
    assert products == W.nnz
    rows = np.concatenate([part.source.arrays["rows"] for part in parts])
    assert sorted(rows.ravel().tolist()) == list(range(96))


def test_no_additions_in_pairs() -> None:
    """Of 16-bit numbers, which LLVM makes where it knows that they suffice: such code was wrong on
    a GPU (see ``stage.opaque``). Its shape, channels-last, staged 666 cells a channel."""
    p = ConvProblem(
        1, 64, 28, 33, 64, 3, 3, 680, stride=(3, 1), padding=(0, 1, 2, 1), x_layout="column",
        epilogue=Epilogue(residual=True, activation="gelu"),
        pool=Pool("avg", (3, 3), (3, 2), (1, 1)),
    )  # fmt: skip
    config = KernelConfig(
        "unrolled", 8, 2, 2, 4, repeat=2, prefetch=4, row_blocks="even_nnz", fastest="columns"
    )
    assert "16x2" not in built(p, config, 90)[1].compiled.asm["ptx"]
