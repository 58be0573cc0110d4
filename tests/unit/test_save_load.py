"""``save`` and ``load``: round trips to the bit, small files, and refusals that leave no trace."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparse_triton import SparseMatrix, densify_, load, prune_, save, sparsify_
from sparse_triton.convert.guard import allow_save_pretrained, refuse_save_pretrained
from sparse_triton.errors import InputError
from sparse_triton.nn import SparseLinear
from tests.unit.saved_models import DTYPES, converted, network, pruned, rewritten, same_state


@st.composite
def models(draw: st.DrawFn) -> Callable[[], nn.Sequential]:
    """Small networks of drawn sizes, sparsity, dtype; called twice: the same architecture."""
    sizes = draw(st.lists(st.integers(1, 24), min_size=2, max_size=4))
    bias, norm = draw(st.booleans()), draw(st.booleans())
    sparsity, dtype = draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])), draw(st.sampled_from(DTYPES))

    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for k, m in pairwise(sizes):
            layers += [nn.Linear(k, m, bias=bias), *([nn.BatchNorm1d(m)] if norm else [])]
        model = nn.Sequential(*layers).to(dtype)
        pruned(model, sparsity)
        return model

    return build


@given(models(), st.booleans())
def test_drawn_models_come_back_to_the_bit(tmp_path_factory, build, sparse: bool) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model = converted(build()) if sparse else build()
    save(model, path)
    same_state(model, load(path, build()))
    if sparse:
        same_state(model, load(path, converted(build())))


def test_a_90_percent_sparse_model_is_a_fifth_of_its_dense_file(tmp_path: Path) -> None:
    model = pruned(network())
    save_file(model.state_dict(), tmp_path / "dense")
    dense = (tmp_path / "dense").stat().st_size
    for form in (model, converted(copy.deepcopy(model))):
        saved = save(form, tmp_path / "sparse")
        assert saved.bytes == (tmp_path / "sparse").stat().st_size <= 0.2 * dense
        assert "% of dense" in str(saved)


def test_a_converted_model_loads_into_a_dense_one(tmp_path: Path) -> None:
    model = converted(pruned(network())).eval()
    save(model, tmp_path / "m")
    fresh = network(seed=1)
    back = load(tmp_path / "m", fresh)
    assert back is fresh and isinstance(fresh[4], SparseLinear)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(back.eval()(x), model(x))


def test_without_a_model_the_state_comes_back(tmp_path: Path) -> None:
    model = converted(pruned(network()))
    save(model, tmp_path / "m")
    state = load(tmp_path / "m")
    assert isinstance(state["4.weight"], SparseMatrix)
    assert state["4.weight"].value_hash == model[4].matrix.value_hash
    assert torch.equal(state["0.weight"], model[0].weight)  # type: ignore[arg-type]
    save(state, tmp_path / "again")
    assert load(tmp_path / "again")["4.weight"].value_hash == model[4].matrix.value_hash  # type: ignore[union-attr]


def test_masks_are_applied_and_not_stored(tmp_path: Path) -> None:
    ours, theirs = network(), network()
    prune_(ours, 0.9)
    for layer in (theirs[0], theirs[4]):
        torch_prune.l1_unstructured(layer, "weight", 0.9)
    for i, model in enumerate((ours, theirs)):
        save(model, tmp_path / str(i))
        back = load(tmp_path / str(i), network(seed=1))
        assert torch.equal(back[4].weight, model[4].weight)


def test_tied_and_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.ModuleDict({"in": nn.Linear(40, 40), "out": nn.Linear(40, 40)})
        model["out"].weight = model["in"].weight
        model.add_module("again", model["in"])
        return model

    model = tied()
    save(model, tmp_path / "m")
    with safe_open(tmp_path / "m", "pt") as f:
        assert sorted(f.keys()) == ["in.bias", "in.weight", "out.bias"]
    back = load(tmp_path / "m", tied())
    same_state(back, model)
    assert back["in"].weight is back["out"].weight


def test_strict(tmp_path: Path) -> None:
    save(pruned(network()), tmp_path / "m")
    longer = nn.Sequential(*network(seed=1), nn.Linear(10, 2))
    before = copy.deepcopy(longer.state_dict())
    with pytest.raises(InputError, match=r"lacks 7\.bias, 7\.weight and has nothing"):
        load(tmp_path / "m", longer)
    assert all(torch.equal(before[k], v) for k, v in longer.state_dict().items()), "touched"
    load(tmp_path / "m", longer, strict=False)
    assert torch.equal(longer[7].weight, before["7.weight"])
    assert not torch.equal(longer[0].weight, before["0.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.half(), r"is .* float32 in the file, .* float16 in the model"),
        (
            lambda m: m.__setitem__(6, nn.Linear(256, 11)),
            r"6\.weight is \[10, 256\] .* file",
        ),
        (lambda m: m.__setitem__(4, nn.ReLU()), r"4\.weight is .* without a weight"),
        (lambda m: converted(m).__setitem__(6, nn.Linear(256, 10)), "sparse modules differ.*6"),
    ],
)
def test_models_that_do_not_fit_stay_as_they_are(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    save(converted(pruned(network())), tmp_path / "m")
    other = network(seed=1)
    change(other)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InputError, match=words):
        load(tmp_path / "m", other, strict=False)
    after = other.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


class Block(nn.Module):
    """A residual block as networks have it, with a pool and tokens after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 32, 1)
        self.bn2 = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.fc = nn.Linear(32 * 16, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.relu(self.bn1(self.conv1(x))))
        y = self.relu(y + self.bn2(self.conv2(y)))
        return self.relu(self.fc(self.grouped(y).flatten(1)))


def block(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Block()
    for norm in (model.bn1, model.bn2):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.running_mean)
    return pruned(model).eval()


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


def test_one_sparse_module_alone(tmp_path: Path) -> None:
    layer = SparseLinear(pruned(nn.Linear(40, 30)).weight, torch.randn(30))
    save(layer, tmp_path / "m")
    like = SparseLinear(torch.eye(30, 40), torch.zeros(30))
    same_state(load(tmp_path / "m", like), layer)
    with pytest.raises(InputError, match="one SparseLinear alone"):
        load(tmp_path / "m", nn.Linear(40, 30))


def test_a_loaded_transformers_model_refuses_save_pretrained(tmp_path: Path) -> None:
    class Pretrained(nn.Sequential):
        def save_pretrained(self, folder: str) -> None: ...

    model = Pretrained(pruned(nn.Linear(64, 64)))
    sparsify_(model)
    save(model, tmp_path / "m")
    back = load(tmp_path / "m", Pretrained(nn.Linear(64, 64)))
    with pytest.raises(InputError, match=r"sparse_triton\.save"):
        back.save_pretrained("x")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    for state, words in (
        ({"w": torch.eye(3).to_sparse()}, "strided"),
        ({"w": "text"}, "w is a str"),
        ({"w": torch.zeros(8, 64), "w.values": torch.ones(1)}, "'w.values'; rename"),
        ({"w": torch.ones(2, device="meta")}, "meta"),
    ):
        with pytest.raises(InputError, match=words):
            save(state, tmp_path / "m")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# -- tuned configurations and transformers --------------------------------------------------------


def test_tuned_configurations_travel_along(tmp_path: Path) -> None:
    from autotune import tune
    from sparse_triton.store import Store

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
