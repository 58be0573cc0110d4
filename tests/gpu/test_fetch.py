"""Cycles of straight code: more for more of it, and never fewer than its issue takes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fetch import LINE, cycles, source
from sparse_triton.build import compile_kernel
from sparse_triton.device import Device

pytestmark = pytest.mark.gpu


def test_longer_code_takes_longer() -> None:
    device = torch.device("cuda")
    arch = Device.of(device).arch

    def taken(products: int) -> float:
        kernel = compile_kernel(source(products, 2, 128, [0, 1, 1]), arch).bind(device)
        return cycles(kernel, 3, device, None)

    short, long = taken(40 * LINE), taken(400 * LINE)
    assert 40 * LINE <= short < long < 1e6
