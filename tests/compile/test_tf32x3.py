"""The tf32x3 kernel on every architecture: TF32 products, X split in registers, no spills."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from sparse_triton.build import TritonKernel, resources, sass
from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.tf32x3.limits import tile_of
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.compile.machine_code import written_while_read
from tests.support import draw_config, problem_for, weight

W = weight("random", 256, 96, 0.4)
TENSOR = {80: "HMMA.1688.F32.TF32", 90: "HGMMA.64", 100: "UTCHMMA"}
SHARED = {80: 163, 90: 227, 100: 227}  # KiB of a program


def device(arch: int) -> Device:
    return replace(Device.virtual_cuda(arch), shared_bytes=SHARED[arch] * 1024)


def compiled(problem: SpmmProblem, config: KernelConfig, arch: int) -> TritonKernel:
    plan = plan_spmm(problem, config, W.csr, device(arch))
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    shared = kernel.compiled.metadata.shared
    assert shared <= config.prefetch * tile_of(problem, config).stage_bytes
    return kernel


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("layouts", "activation"), [("row-row", "relu"), ("column-column", "gelu")]
)
def test_defaults(layouts: str, activation: str, arch: int) -> None:
    x_layout, y_layout = layouts.split("-")
    epilogue = Epilogue(bias=True, residual=True, activation=activation)
    problem = problem_for(W, 8192, x_layout=x_layout, y_layout=y_layout, epilogue=epilogue)
    config = FAMILIES["tf32x3"].default_config(problem, device(arch))
    kernel = compiled(problem, config, arch)
    assert resources(kernel).spill_bytes == 0
    assert TENSOR[arch] in sass(kernel)


@pytest.mark.parametrize(
    ("x_layout", "N", "activation"),
    [("row", 1568, None), ("row", 1568, "gelu"), ("row", 8192, "relu"), ("column", 1568, "silu")],
)
def test_two_tall_tiles_a_multiprocessor(x_layout: str, N: int, activation: str | None) -> None:
    """128 x 64 in 4 warps: as many registers, and as much shared memory, as two programs have."""
    epilogue = Epilogue(bias=activation is not None, activation=activation)
    problem = problem_for(W, N, x_layout=x_layout, epilogue=epilogue)
    config = KernelConfig("tf32x3", 2, ceil_div(N, 64), prefetch=3)
    kernel = compiled(problem, config, 90)
    used = resources(kernel)
    assert (kernel.source.num_warps, used.spill_bytes) == (4, 0)
    assert 2 * (kernel.compiled.metadata.shared + 1024) <= 228 * 1024
    assert 2 * 128 * used.registers <= 65536


@pytest.mark.parametrize("seed", range(6))
def test_drawn_configurations(seed: int) -> None:
    epilogue = (Epilogue(), Epilogue(bias=True, activation="gelu"))[seed % 2]
    x_layout = ("row", "column")[seed // 2 % 2]
    problem = problem_for(W, (8192, 4099)[seed % 3 == 2], x_layout=x_layout, epilogue=epilogue)
    config = draw_config(np.random.default_rng(seed), problem, device(90), "tf32x3")
    assert config is not None
    kernel = compiled(problem, config, 90)
    assert resources(kernel).spill_bytes == 0
    products = re.findall(r"wgmma\.mma_async\S+ \{[^}]*\}, (\S)", kernel.compiled.asm["ptx"])
    assert products and set(products) == {"{"}, "X must not go back to shared memory"


@pytest.mark.parametrize("layouts", ["row-row", "row-column", "column-row"])
def test_a_step_waits_before_it_writes_what_products_read(layouts: str) -> None:
    """On sm_90, products of the step before read X from registers until somebody waits for them."""
    x_layout, y_layout = layouts.split("-")
    problem = problem_for(W, 1568, x_layout=x_layout, y_layout=y_layout)
    code = sass(compiled(problem, KernelConfig("tf32x3", 2, 25, prefetch=3), 90))
    assert not written_while_read(code)
