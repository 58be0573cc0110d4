"""Saved from a GPU and loaded onto one: the same bits in every layer, the same output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_triton as st
from sparse_triton.nn import SparseModule

pytestmark = pytest.mark.gpu


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 64, 128), nn.ReLU(), nn.Linear(128, 64),
    )  # fmt: skip
    st.prune_(model, 0.9).make_permanent()
    return model.eval().requires_grad_(False).cuda()


def test_a_converted_model_travels_with_what_was_tuned(tmp_path: Path) -> None:
    model, x = network(0), torch.randn(4, 16, 16, 16, device="cuda")
    st.sparsify_(model, st.SparsifyConfig(min_gain=0.0))
    st.warmup(model, x, store=tmp_path / "mine", seconds=1.0)
    saved = st.save(model, tmp_path / "m", store=tmp_path / "mine")
    assert saved.packed == 3 and saved.tuned >= 3
    fresh = st.load(tmp_path / "m", network(1), store=tmp_path / "theirs")
    for theirs, mine in zip(fresh.modules(), model.modules(), strict=True):
        if isinstance(mine, SparseModule):
            assert isinstance(theirs, SparseModule) and theirs.values.is_cuda
            assert theirs.matrix.weight_id == mine.matrix.weight_id
    assert torch.equal(fresh(x), model(x))


def test_pruning_on_the_device() -> None:
    layer = nn.Linear(256, 256).cuda()
    pruning = st.prune_(layer, 0.9, "random")
    layer(torch.randn(3, 256, device="cuda")).sum().backward()
    assert int((layer.weight == 0).sum()) == round(0.9 * 256 * 256)
    pruning.make_permanent()
    assert layer.weight.is_cuda
