"""Kernels compiled ahead of the calls that take them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from triton import knobs

import sparse_triton as st
from autotune.ahead import Kernels, compile_ahead
from sparse_triton.build import TritonKernel
from sparse_triton.choose import choose
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


def test_each_weight_keeps_its_own_kernel_and_dense_calls_need_none() -> None:
    other = st.SparseMatrix.from_dense(2.0 * W.to_dense())
    dense = st.SparseMatrix.from_dense(torch.ones(32, 64))
    seen = [(W, PROBLEM), (other, PROBLEM), (dense, problem_for(dense, 64)), (W, PROBLEM)]
    assert len(compile_ahead(seen, GPU, jobs=1)) == 2
    key = PROBLEM, choose(PROBLEM, W.pattern_hash, GPU).config
    kernels = [w.built.pop(key) for w in (W, other)]
    assert all(isinstance(k, TritonKernel) for k in kernels) and not dense.built
    mine, others = ([a.tobytes() for a in k.source.arrays.values()] for k in kernels)
    assert mine != others


def test_the_first_call_takes_what_was_built() -> None:
    twin = st.SparseMatrix.from_dense(3.0 * W.to_dense())
    facts = Device.of(torch.device("cpu"))
    problem = problem_for(twin, 64)
    calls = []

    class Built:
        def bind(self, device: torch.device):  # type: ignore[no-untyped-def]
            return lambda X, Y, bias, residual: calls.append(Y.zero_())

    twin.built[problem, choose(problem, twin.pattern_hash, facts).config] = Built()
    for _ in range(2):
        assert not st.spmm(twin, torch.ones(64, 64)).any()
    assert len(calls) == 2 and not twin.built
