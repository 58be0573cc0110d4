"""Converted models: their files onto dense models, with what was fused and what was tuned."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_triton import SparseMatrix, densify_, load, save, sparsify_, warmup
from sparse_triton.convert.guard import allow_save_pretrained, refuse_save_pretrained
from sparse_triton.errors import InputError
from sparse_triton.store import Store
from tests.unit.saved_models import Block, block, converted, network, pruned, rewritten, same_state


def test_fused_blocks_are_fused_again(tmp_path: Path) -> None:
    model, x = block(0), torch.randn(2, 16, 8, 8)
    report = sparsify_(model)
    assert "residual" in report["conv2"].fused and report["grouped"].decision == "sparse"
    assert save(model, tmp_path / "m").packed == 4
    fresh = block(1)
    back = load(tmp_path / "m", fresh)
    assert back is fresh and torch.equal(back(x), model(x))
    assert back.conv2.fused == model.conv2.fused
    same_state(back, model)
    again = load(tmp_path / "m", back)  # a converted model, converted the same way
    assert torch.equal(again(x), model(x))
    densify_(back)
    assert isinstance(back.fc, nn.Linear)


def test_another_architecture_is_refused_before_anything_changes(tmp_path: Path) -> None:
    model = block(0)
    sparsify_(model)
    save(model, tmp_path / "m")

    class Other(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.pool(self.bn1(self.conv1(x)))
            return self.fc(self.grouped(y + self.bn2(self.conv2(y))).flatten(1))

    other = Other().eval()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InputError, match=r"conv\d was fused with"):
        load(tmp_path / "m", other)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    assert isinstance(other.conv1, nn.Conv2d) and isinstance(other.bn1, nn.BatchNorm2d)


def test_transposed_layers_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(16, 32)),
                nn.Parameter(torch.randn(32)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight)

    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    model, x = pruned(nn.Sequential(Conv1D())), torch.randn(3, 16)
    sparsify_(model)
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", nn.Sequential(Conv1D()))(x), model(x))


# -- tuned configurations and transformers --------------------------------------------------------


def test_tuned_configurations_travel_along(tmp_path: Path) -> None:
    from autotune import tune

    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    model = converted(pruned(network()))
    for W in (model[4].matrix, SparseMatrix.from_dense(torch.eye(8))):
        tune(W, 4, store=mine, device="cpu", seconds=0.5)
    saved = save(model, tmp_path / "m", store=mine)
    assert saved.tuned == 1, "of the model's weights only"
    load(tmp_path / "m", store=theirs)
    (arrived,) = theirs.entries()
    (origin,) = (e for e in mine.entries() if e.key == arrived.key)
    assert arrived.best == origin.best and len(arrived.trials) == 1
    kept = arrived.to_json().replace(origin.created, "1999")
    theirs.put(type(arrived).from_dict(json.loads(kept)))
    load(tmp_path / "m", store=theirs)
    assert next(theirs.entries()).created == "1999", "what a store has stays"


def test_studies_of_convolutions_travel_along(tmp_path: Path) -> None:
    model, store = block(0), Store(tmp_path / "mine")
    sparsify_(model)
    warmup(model, torch.randn(1, 16, 8, 8), store=store, seconds=0.1)
    saved = save(model, tmp_path / "m", store=store)
    load(tmp_path / "m", store=tmp_path / "theirs")
    assert saved.tuned == len(list(Store(tmp_path / "theirs").entries())) == 4


def test_the_tuner_finds_the_weights_of_a_saved_model(tmp_path: Path) -> None:
    from autotune.weights_in import find_weights

    model = converted(pruned(network()))
    path = tmp_path / "m.safetensors"
    save(model, path)
    found = {w.name: w for w in find_weights(str(path))}
    assert found.keys() == {"0.weight", "4.weight", "6.weight"}
    assert found["4.weight"].matrix.pattern_hash == model[4].matrix.pattern_hash
    assert found["0.weight"].kind == "conv 3x3"


def test_configurations_of_another_version_cost_one_warning(tmp_path: Path) -> None:
    save(pruned(network()), tmp_path / "m")
    rewritten(tmp_path / "m", lambda d: d.update(tuned=[{"schema": 77}, 5]))
    with pytest.warns(UserWarning, match="2 tuned configurations of the file are of another"):
        load(tmp_path / "m")


def test_save_pretrained_is_refused_while_sparse() -> None:
    class Pretrained(nn.Linear):
        def save_pretrained(self, folder: str) -> str:
            return folder

    model = nn.Sequential(Pretrained(2, 2), nn.Linear(2, 2))
    refuse_save_pretrained(model)
    twin = copy.deepcopy(model)
    for m in (model, twin):
        with pytest.raises(InputError, match=r"sparse_triton\.save"):
            m[0].save_pretrained("x")
    allow_save_pretrained(model)
    assert model[0].save_pretrained("x") == "x"
