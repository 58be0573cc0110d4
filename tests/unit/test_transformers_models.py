"""Models of transformers, where it is installed: converted, guarded, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_triton as st
from sparse_triton.errors import InputError

transformers = pytest.importorskip("transformers")


def bert(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.BertModel(config).eval().requires_grad_(False)


def gpt2(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)


@pytest.mark.parametrize("build", [bert, gpt2])
def test_pruned_converted_saved_and_loaded(build: Any, tmp_path: Path) -> None:
    model, tokens = build(0), torch.arange(24).view(2, 12)
    st.prune_(model, 0.9, filter_fn=lambda name, _: "lm_head" not in name).make_permanent()
    report = st.sparsify_(model, st.SparsifyConfig(min_gain=0.0))
    assert len(report.converted) >= 8
    with pytest.raises(InputError, match=r"sparse_triton\.save"):
        model.save_pretrained(tmp_path / "trap")
    assert not (tmp_path / "trap").exists()
    st.save(model, tmp_path / "m")
    fresh = st.load(tmp_path / "m", build(1))
    assert torch.equal(fresh(tokens)[0], model(tokens)[0])
    with pytest.raises(InputError, match=r"sparse_triton\.save"):
        fresh.save_pretrained(tmp_path / "trap")
    st.densify_(fresh)
    fresh.save_pretrained(tmp_path / "dense")
    back = type(fresh).from_pretrained(tmp_path / "dense").eval()
    torch.testing.assert_close(back(tokens)[0], model(tokens)[0])
