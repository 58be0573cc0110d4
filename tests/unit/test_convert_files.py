"""sparse-bitmask files, and the command ``advise``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from autotune.weights_in import find_weights
from sparse_triton import errors, sparsify
from sparse_triton.commands import main
from sparse_triton.convert import load_bitmask
from sparse_triton.convert.bitmask import unpack_bitmasks
from tests.models import ResNet, prepared
from tests.support import dense_weight


def packed(prefix: str, w: torch.Tensor) -> dict[str, torch.Tensor]:
    """As the format's definition has it."""
    keep = w != 0
    rows = keep.sum(-1)
    bits = np.packbits(keep.numpy(), axis=-1, bitorder="little")
    return {
        f"{prefix}.compressed": w[keep],
        f"{prefix}.bitmask": torch.from_numpy(bits),
        f"{prefix}.shape": torch.tensor(w.shape),
        f"{prefix}.row_offsets": torch.cumsum(rows.flatten(), 0) - rows.flatten(),
    }


@given(
    shape=st.lists(st.integers(1, 17), min_size=2, max_size=4),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_unpack(shape: list[int], density: float, dtype: torch.dtype, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < density)
    w = w.to(dtype)
    plain = {"layer.bias": torch.ones(3)}
    assert unpack_bitmasks(plain) == plain
    for prefix in ("layer", "layer.weight"):
        dense = unpack_bitmasks(plain | packed(prefix, w))
        assert list(dense) == ["layer.bias", "layer.weight"]
        assert dense["layer.weight"].dtype == dtype and torch.equal(dense["layer.weight"], w)


def test_from_a_file_to_a_sparse_model(tmp_path: Path) -> None:
    model = prepared(nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 8)), 0.9)
    first, second = (tmp_path / f"model-{i}.safetensors" for i in (1, 2))
    save_file(packed("0", model[0].weight.detach()) | {"0.bias": model[0].bias}, first)
    save_file(packed("2", model[2].weight.detach()) | {"2.bias": model[2].bias}, second)
    state = load_bitmask(tmp_path)
    other = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 8)).eval()
    other.load_state_dict(state)
    X = torch.randn(5, 24)
    assert torch.equal(other(X), model(X))
    _, report = sparsify(other)
    assert report.converted == ("0", "2")
    assert [w.name for w in find_weights(first)] == ["0.weight"]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a part": ({"shape": None}, "has a bitmask, but no shape"),
    "the shape": ({"shape": torch.tensor([4, 99])}, r"does not fit a weight of \[4, 99\]"),
    "negative": ({"shape": torch.tensor([-4, 9])}, "does not fit a weight of"),
    "values": ({"compressed": torch.ones(3)}, "bits are set, for 3 values"),
    "offsets": ({"row_offsets": torch.tensor([0, 0, 0, 1])}, "row_offsets are not those"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_bitmasks(what: str) -> None:
    changes, words = BROKEN[what]
    tensors = packed("a", dense_weight("random", 4, 9, 0.5))
    for part, value in changes.items():
        tensors.pop(f"a.{part}")
        tensors |= {} if value is None else {f"a.{part}": value}
    with pytest.raises(errors.FileFormatError, match=words):
        unpack_bitmasks(tensors)


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match=r"neither a .safetensors file nor a folder"):
        load_bitmask(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(errors.FileFormatError, match="is not a readable"):
        load_bitmask(tmp_path)


# -- the command -----------------------------------------------------------------------------------


def network() -> tuple[nn.Module, torch.Tensor]:
    return prepared(ResNet(), 0.9), torch.randn(1, 3, 16, 16)


def a_number() -> int:
    return 3


def test_advise_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    spec = f"{__name__}:network"
    assert main(["advise", spec, "--json", "--plot", str(chart)]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {"stem.0", "fc"} <= {layer["name"] for layer in layers}
    assert any(layer["gain"] is not None for layer in layers)
    assert chart.stat().st_size > 1000
    assert main(["advise", spec, "--min-sparsity", "1.0"]) == 0
    assert "0 of 10 layers sparse" in capsys.readouterr().out
    assert main(["advise", f"{__name__}:a_number"]) == 2
    assert "gives a int, a model is needed" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_advise_a_file(suffix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    w = dense_weight("random", 20, 30, 0.1)
    state = {
        "a.b.weight": w,
        "a.b.bias": torch.ones(20),
        "a.weight_orig": torch.ones(20, 30),
        "a.weight_mask": (w != 0).float(),
        "conv.weight": w.view(20, 30, 1, 1).clone(),
    }
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state | packed("d", w), path)
    assert main(["advise", str(path), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    want = {"a.b": "Linear", "a": "Linear", "conv": "Conv2d"}
    want |= {"d": "Linear"} if suffix == ".safetensors" else {}
    assert {layer["name"]: layer["layer"] for layer in layers} == want
    assert {layer["decision"] for layer in layers} == {"sparse"}
