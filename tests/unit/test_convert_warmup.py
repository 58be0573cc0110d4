"""``warmup``: what one forward runs is what is tuned, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_triton as st
from sparse_triton import choose
from sparse_triton.device import Device
from sparse_triton.executor import problem_of, watching
from sparse_triton.store import Store
from tests.models import ResNet, prepared


@pytest.mark.usefixtures("one_thread")
def test_every_problem_of_the_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SPARSE_TRITON_AUTOTUNE", "off")
    model, X = prepared(ResNet()), torch.randn(1, 3, 8, 8)
    report = st.sparsify_(model, st.SparsifyConfig(min_sparsity=0.0))
    result = st.warmup(model, X, seconds=0.02)
    tuned = {name for t in result.tuned for name in t.job.names}
    assert tuned == set(report.converted)
    with torch.no_grad(), watching() as seen:
        model(X)
    facts = Device.of(torch.device("cpu"))
    assert len(seen) == len(report.converted)
    for W, problem in seen:
        assert choose.choose(problem, W.pattern_hash, facts).source == "stored"
    # and now the gain is known by measurement
    st.densify_(model)
    row = st.advise(model, st.SparsifyConfig(min_gain=0.0), example_inputs=X)["fc"]
    assert row.gain_source == "measured" or "dense is taken" in row.reason


@pytest.mark.usefixtures("one_thread")
def test_autocast_and_other_calls(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = torch.eye(16)
            self.layer = st.nn.SparseLinear(torch.eye(16))

        def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
            return st.spmm(self.W, self.layer(x * scale).mT)

    model = Model().train()
    inputs = {"x": torch.randn(4, 16), "scale": 2.0}
    with torch.autocast("cpu", torch.bfloat16):
        result = st.warmup(model, inputs, store=tmp_path, seconds=0.02)
    assert model.training
    problems = [t.job.key.problem for t in result.tuned]
    assert {p.x_dtype for p in problems} == {"bfloat16"} and len(problems) == 2
    assert "layer" in {t.job.names[0] for t in result.tuned}
    assert len(list(Store(tmp_path).entries())) == 2


def test_without_a_budget_nothing_is_tuned(tmp_path: Path) -> None:
    model = nn.Sequential(st.nn.SparseLinear(torch.eye(48)))
    X = torch.randn(4, 48)
    result = st.warmup(model, X, budget="off", store=tmp_path)
    assert not result.tuned and result.prepared == 0  # a CPU's kernels are not compiled ahead
    assert not list(Store(tmp_path).entries())
    assert len(model[0].matrix.launchers) == 1


def test_watching_does_no_planning() -> None:
    W = st.SparseMatrix.from_dense(torch.eye(8))
    X = torch.randn(8, 3)
    with watching() as seen:
        Y = st.spmm(W, X)
    assert torch.equal(Y, X) and not W.launchers
    assert [(w.weight_id, p) for w, p in seen] == [
        (W.weight_id, problem_of(W, st.executor.Call(X, None, None, None, False)))
    ]
