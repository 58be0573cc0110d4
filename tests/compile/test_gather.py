"""The gather kernel compiles for every dtype, layout, epilogue and architecture, without spills."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_triton.build import TritonKernel, resources
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.support import draw_config, problem_for, weight

ARCHS = (80, 90, 100)
W = weight("ragged", 128, 256, 0.1, seed=0)


def spills(problem: SpmmProblem, arch: int, seed: int | None = None) -> int:
    device = Device.virtual_cuda(arch)
    config = FAMILIES["gather"].default_config(problem, device)
    if seed is not None:
        drawn = draw_config(np.random.default_rng(seed), problem, device, "gather")
        assert drawn is not None
        config = drawn
    plan = plan_spmm(problem, config, W.csr, device)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    return resources(kernel).spill_bytes


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("x_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layouts", ["row-row", "row-column", "column-row", "column-column"])
def test_defaults(layouts: str, x_dtype: str, arch: int) -> None:
    x_layout, y_layout = layouts.split("-")
    epilogue = Epilogue(bias=True, residual=y_layout == "row", activation="gelu")
    problem = problem_for(
        W, 196, x_dtype=x_dtype, x_layout=x_layout, y_layout=y_layout, epilogue=epilogue, batch=2
    )
    assert spills(problem, arch) == 0


@pytest.mark.parametrize("seed", range(8))
def test_drawn_configurations(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    problem = problem_for(
        W,
        int(rng.choice([1, 49, 784, 4099])),
        x_dtype=str(rng.choice(["float32", "float16"])),
        epilogue=Epilogue(activation=[None, "silu"][seed % 2]),
    )
    assert spills(problem, 90, seed) == 0
