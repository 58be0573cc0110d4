"""Which layers ``sparsify_`` and ``advise`` leave dense, and why; the report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_triton import SparsifyConfig, advise, densify_, errors, sparsify_
from sparse_triton.nn import SparseModule
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared
from tests.support import same_bits


class Sub(nn.Linear):
    pass


def sparse_linear(k: int = 16, m: int = 32, cls: type[nn.Linear] = nn.Linear) -> nn.Linear:
    return prepared(nn.Sequential(cls(k, m)), 0.9)[0]  # type: ignore[no-any-return]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(32, 16), sparse_linear())
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(32, 16) < 0.1)
    return model


def shared() -> nn.Module:
    layer = sparse_linear(16, 16)
    return nn.Sequential(layer, nn.ReLU(), layer)


def with_weight(w: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(w.shape[1], w.shape[0], dtype=w.dtype))
    model[0].weight = nn.Parameter(w, requires_grad=w.dtype.is_floating_point)
    return model


def reflecting() -> nn.Module:
    return prepared(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), 0.9)


def patched() -> nn.Module:
    model = nn.Sequential(sparse_linear())
    model[0].forward = lambda x: x
    return model


def attention() -> nn.Module:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    prepared(model, 0.9)
    return model


REASONS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "full": (lambda: nn.Sequential(nn.Linear(4, 4)), "0", "0.0% zeros, min_sparsity is 70.0%"),
    "tied": (tied, "1", "its weight is tied to 0.weight"),
    "shared": (shared, "0", "the module is shared: it is 2 too"),
    "subclass": (lambda: nn.Sequential(sparse_linear(cls=Sub)), "0", "Sub is a subclass"),
    "attention": (attention, "attention.out_proj", "nn.MultiheadAttention reads its weight"),
    "float64": (lambda: with_weight(torch.zeros(4, 4).double()), "0", "its weight is float64"),
    "empty": (lambda: with_weight(torch.zeros(0, 4)), "0", "its weight is empty"),
    "meta": (lambda: nn.Sequential(nn.Linear(4, 4, device="meta")), "0", "on the meta device"),
    "padding": (reflecting, "0", "padding_mode is 'reflect'"),
    "patched": (patched, "0", "its forward was replaced on the instance"),
    "root": (sparse_linear, "", "it is the model itself"),
    "no kernel": (
        lambda: nn.Sequential(nn.Conv1d(4, 4, 3).requires_grad_(False).apply(zero_)),
        "0", "there is no sparse layer for Conv1d",
    ),
}  # fmt: skip


def zero_(m: nn.Module) -> None:
    for p in m.parameters():
        p.zero_()


@pytest.mark.parametrize("why", REASONS)
def test_reasons(why: str) -> None:
    make, name, words = REASONS[why]
    model = make()
    report = sparsify_(model)
    assert report[name].decision == "dense" and words in report[name].reason
    assert report.skipped[name] == report[name].reason
    assert name not in report.converted


def test_a_dense_embedding_is_no_row() -> None:
    assert len(advise(nn.Sequential(nn.Embedding(8, 8), nn.Conv1d(4, 4, 3)))) == 0


def test_filter_and_config() -> None:
    model = prepared(Perceptron(), 0.8)
    report = advise(model, filter_fn=lambda name, layer: name != "b")
    assert report.converted == ("a", "c") and report["b"].reason == "filter_fn said no"
    assert advise(model, SparsifyConfig(min_sparsity=0.95)).converted == ()
    plain = advise(model, SparsifyConfig(fuse=False))
    assert [row.fused for row in plain] == [(), (), ()]
    for config in ({"min_sparsity": 1.5}, {"min_gain": -1.0}, {"min_gain": float("nan")}):
        with pytest.raises(errors.InputError, match=next(iter(config))):
            SparsifyConfig(**config)
    with pytest.raises(errors.InputError, match=r"model must be a .*, got dict"):
        advise({})  # type: ignore[arg-type]


def test_example_inputs_tell_the_gain() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big, self.small, self.idle = (
                sparse_linear(512, 512), sparse_linear(512, 512), sparse_linear(64, 64)
            )  # fmt: skip

        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
            return self.big(x) + self.small(y)

    model = Two().train()
    X, y = torch.randn(64, 512), torch.randn(1, 512)
    report = advise(model, example_inputs={"x": X, "y": y})
    assert model.training and model.big.training
    assert report["big"].gain is not None and report["big"].gain > 1.5
    assert report["big"].gain_source == "estimate" and "N = 64" in report["big"].reason
    assert report["idle"].gain is None and "never reach it" in report["idle"].reason
    assert "no longer trains" in report["big"].reason
    asked = SparsifyConfig(min_gain=1e6)
    dense = advise(model, asked, example_inputs={"x": X, "y": y})
    assert "min_gain is 1000000.00" in dense["big"].reason
    few = prepared(nn.Sequential(nn.Linear(64, 64)), 0.75)
    with torch.no_grad():
        few[0].weight[torch.rand(64, 64) < 0.999] = 0
    below = advise(few, example_inputs=torch.randn(64, 64))
    assert "below break-even at N = 64: dense is taken" in below["0"].reason


def test_without_a_least_gain_tuning_decides() -> None:
    few = prepared(nn.Sequential(nn.Linear(64, 64)), 0.75)
    with torch.no_grad():
        few[0].weight[torch.rand(64, 64) < 0.999] = 0
    config = SparsifyConfig(min_gain=0.0)
    assert advise(few, config, example_inputs=torch.randn(64, 64)).converted == ("0",)


def test_zeros_between_groups() -> None:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = prepared(nn.Sequential(depthwise, nn.BatchNorm2d(8), nn.ReLU()), 0.0)
    assert advise(model).converted == ()
    want, X = bounded(model, x := torch.randn(2, 8, 5, 5)), x
    before = copy.deepcopy(model.state_dict())
    report = sparsify_(model, SparsifyConfig(between_groups=True))
    assert (
        report["0"].fused == ("batch norm", "relu") and "between its groups" in report["0"].reason
    )
    assert report["0"].sparsity == 0.0
    with torch.no_grad():
        assert worst(model(X), want) <= 1.0
    densify_(model)
    assert same_bits(before, model.state_dict())


# -- the report ------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    model = prepared(ResNet(), 0.9)
    advised = advise(model, example_inputs=torch.randn(1, 3, 16, 16))
    assert not any(isinstance(m, SparseModule) for m in model.modules())
    assert advised == sparsify_(model, example_inputs=torch.randn(1, 3, 16, 16))
    data = json.loads(advised.to_json())
    assert data["bytes"] == advised.bytes < data["dense_bytes"] == advised.dense_bytes
    assert {"name", "layer", "shape", "sparsity", "decision", "reason", "gain", "bytes"} <= set(
        data["layers"][0]
    )
    text = str(advised)
    assert len(text.splitlines()) == len(advised) + 2
    assert f"{len(advised.converted)} of {len(advised)} layers sparse" in text
    advised.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_sparse_bytes_are_those_of_the_state() -> None:
    model = nn.Sequential(sparse_linear())
    row = sparsify_(model)["0"]
    state = model.state_dict()
    assert row.sparse_bytes == sum(t.nbytes for n, t in state.items() if not n.endswith("bias"))
    assert row.dense_bytes == 32 * 16 * 4
