"""Both kernels of family ``turned`` compile everywhere without spills."""

from __future__ import annotations

import pytest

from sparse_triton.build import TritonKernel, resources
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.turned import TurnedKernel
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue
from tests.support import problem_for, weight


@pytest.mark.parametrize("M", [128, 1030])
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("x_dtype", ["float32", "bfloat16"])
def test_defaults(x_dtype: str, arch: int, M: int) -> None:
    W = weight("ragged", M, 256, 0.1, seed=0)
    problem = problem_for(
        W, 196, batch=2, x_dtype=x_dtype, x_layout="column", y_layout="column",
        epilogue=Epilogue(bias=True, residual=M < 1024, activation="relu"),
    )  # fmt: skip
    device = Device.virtual_cuda(arch)
    config = FAMILIES["turned"].default_config(problem, device)
    plan = plan_spmm(problem, config, W.csr, device)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TurnedKernel)
    assert (kernel.turn_y is None) == (M < 1024)
    for part in filter(None, (kernel.turn_x, kernel.gather, kernel.turn_y)):
        assert isinstance(part, TritonKernel) and resources(part).spill_bytes == 0
