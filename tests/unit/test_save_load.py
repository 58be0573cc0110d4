"""``save`` and ``load``: round trips to the bit, small files, and refusals that leave no trace."""

from __future__ import annotations

import copy
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

from sparse_triton import SparseMatrix, load, prune_, save, sparsify_
from sparse_triton.errors import InputError
from sparse_triton.nn import SparseLinear
from tests.unit.saved_models import DTYPES, converted, network, pruned, same_state


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
