"""``save`` and ``load``: round trips to the bit, small files, and refusals that leave no trace."""

from __future__ import annotations

import copy
import json
import threading
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

from sparse_triton import SparseMatrix, load, prune_, save
from sparse_triton.errors import FileFormatError, InputError
from sparse_triton.io import container
from sparse_triton.io.guard import allow_save_pretrained, refuse_save_pretrained
from sparse_triton.nn import SparseLinear

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    prune_(model, sparsity, "random").make_permanent()
    return model.requires_grad_(False)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 64, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def converted(model: nn.Sequential) -> nn.Sequential:
    """Its Linear layers sparse."""
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            model[i] = SparseLinear(layer.weight, layer.bias)
    return model


def as_int(t: torch.Tensor) -> torch.Tensor:
    return t.view(torch.int16) if t.dtype is torch.bfloat16 else t


def same_state(a: nn.Module, b: nn.Module) -> None:
    one, other = a.state_dict(), b.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        bits = [t.numpy().tobytes() for t in (as_int(one[name]), as_int(other[name]))]
        assert bits[0] == bits[1], name


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


# -- damaged files --------------------------------------------------------------------------------


def test_truncation_is_seen_wherever_it_falls(tmp_path: Path) -> None:
    save(pruned(nn.Linear(30, 30)), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "short").write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="not a whole safetensors file"):
            load(tmp_path / "short")


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    save(pruned(nn.Linear(12, 12)), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for at in range(0, len(whole), 7):
        (tmp_path / "bad").write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        try:
            state = load(tmp_path / "bad")
        except FileFormatError:
            continue
        # white space before the header's end is the one thing nobody reads
        same = {k: v for k, v in load(tmp_path / "m").items()}
        assert all(torch.equal(state[k], same[k]) for k in same), f"byte {at} went unseen"  # type: ignore[arg-type]


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "nothing")
    save_file({"w": torch.ones(3)}, tmp_path / "plain")
    with pytest.raises(FileFormatError, match=r"load_file"):
        load(tmp_path / "plain")
    torch.save({"w": torch.ones(3)}, tmp_path / "pickle")
    with pytest.raises(FileFormatError, match="truncated or of another kind"):
        load(tmp_path / "pickle")


def rewritten(path: Path, change: Callable[[dict], object]) -> Path:
    """The file with a changed document and checksums that are right again."""
    document, tensors = container.read(path)
    change(document)
    document.pop("sha256")
    for name in ("format", "schema"):
        document.pop(name) if document[name] == getattr(container, name.upper()) else None
    container.write(path, document, tensors)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema=99), "says .*99.*this version reads"),
        (lambda d: d.update(weights=[]), "must hold the objects"),
        (lambda d: d.update(aliases={"x": "y"}), "alias"),
        (lambda d: d["weights"]["4.weight"].update(nnz=3), "4.weight: values must be"),
        (lambda d: d["weights"]["4.weight"].update(nnz=True), "not a packed weight"),
        (lambda d: d["weights"]["4.weight"].update(shape=[2**40, 1]), "not a packed weight"),
        (lambda d: d["weights"]["4.weight"].update(shape=[256, 1]), "4.weight: bitmap must be"),
        (lambda d: d["weights"]["4.weight"].update(encoding="zip"), "not a packed weight"),
        (lambda d: d["weights"]["4.weight"].update(dtype="float16"), "4.weight must be float16"),
        (lambda d: d["weights"]["4.weight"].update(dtype="int8"), "no dtype 'int8'"),
        (lambda d: d["weights"].update({"9": 3}), "9: a packed weight is an object"),
        (lambda d: d["weights"].pop("4.weight"), "without its weight"),
        (lambda d: d.update(modules=None), "object 'modules'"),
        (lambda d: d["modules"]["4"].update(type="Evil"), "knows .*SparseLinear"),
        (lambda d: d["modules"]["4"].update(spec={"activation": "rm"}), "4 is not a sparse module"),
        (lambda d: d["modules"]["4"].update(spec={"evil": 1}), "4 is not a sparse module"),
        (lambda d: d["modules"].update({"8": d["modules"]["4"]}), "no module '8'"),
        (lambda d: d["modules"].update({"8": 5}), "8: not a description"),
    ],
)
def test_documents_that_lie(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    save(converted(pruned(network())), tmp_path / "m")
    with pytest.raises((FileFormatError, InputError), match=words):
        load(rewritten(tmp_path / "m", change), network())


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    models = [pruned(network(seed)) for seed in range(2)]
    writers = [
        threading.Thread(target=lambda m=m: [save(m, path) for _ in range(5)]) for m in models
    ]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        if path.exists():
            load(path)  # whole at any time
    loaded = load(path)["4.weight"]
    assert any(torch.equal(loaded, m[4].weight) for m in models)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "a temporary file was left"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(pruned(nn.Linear(4, 4)), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full_disk(tensors, path, metadata):  # type: ignore[no-untyped-def]
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(container, "save_file", full_disk)
    with pytest.raises(InputError, match="cannot be written: no space"):
        save(pruned(nn.Linear(4, 4)), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


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
