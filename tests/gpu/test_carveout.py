"""Kernels that live off the L1 cache have it, whatever ran before them."""

from __future__ import annotations

import ctypes

import pytest
import torch

from sparse_triton import build
from sparse_triton.carveout import PREFERRED_CARVEOUT, _driver
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm
from tests.support import problem_for, weight

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", ["gather", "unrolled"])
def test_gather_asks_for_the_cache(family: str) -> None:
    W, device = weight("random", 64, 128, 0.1, seed=0), torch.device("cuda", 0)
    problem, facts = problem_for(W, 256), Device.of(device)
    config: KernelConfig = FAMILIES[family].default_config(problem, facts)
    plan = plan_spmm(problem, config, W.csr, facts)
    kernel = plan.family.build(plan)
    kernel.bind(device)
    (part,) = build.parts_of(kernel)
    loaded = build._load(part.compiled, device, part.source.window_bytes)
    percent = ctypes.c_int(-2)
    function = ctypes.c_void_p(loaded.function)
    assert not _driver().cuFuncGetAttribute(ctypes.byref(percent), PREFERRED_CARVEOUT, function)
    assert (0 < percent.value <= 100) == (family == "gather"), "-1: the driver's choice"
