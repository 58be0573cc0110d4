"""Kernels that the benchmarks compile ahead."""

from __future__ import annotations

from pathlib import Path

import pytest
from triton import knobs

from benchmarks.kernels import Kernels
from sparse_triton.build import TritonKernel
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError
from sparse_triton.kernels import FAMILIES
from tests.support import problem_for, weight

GPU = Device.virtual_cuda(90)
W = weight("random", 32, 64, 0.2)
PROBLEM = problem_for(W, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def test_ordered_kernels_are_taken_and_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = FAMILIES["unrolled"].default_config(PROBLEM, GPU)
    with Kernels(GPU) as kernels:
        for _ in range(2):
            kernels.order(W, PROBLEM, config)
        kernels.order(W, PROBLEM, KernelConfig("dense"))
        assert len(kernels.jobs) == 1
        kernels.compile()
        hits: list[bool] = []
        monkeypatch.setattr(
            knobs.compilation, "listener", lambda **event: hits.append(event["cache_hit"])
        )
        assert isinstance(kernels.take(W, PROBLEM, config), TritonKernel)
        assert hits == [True]
        kernels.take(W, PROBLEM, KernelConfig("dense"))


def test_a_failed_build_is_told() -> None:
    with Kernels(GPU) as kernels:
        kernels.order(W, PROBLEM, KernelConfig("gather", Gy=0))
        with pytest.raises(BuildError, match="Gy must be at least 1"):
            kernels.compile()
