"""Files that are torn, foreign, changed or written at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparse_triton import load, save
from sparse_triton.errors import FileFormatError, InputError
from sparse_triton.io import container
from tests.unit.saved_models import converted, network, pruned, rewritten


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
