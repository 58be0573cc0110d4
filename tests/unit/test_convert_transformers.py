"""Models of the transformers package, small and with drawn weights; skipped where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_triton as st

transformers = pytest.importorskip("transformers")


def bert() -> tuple[Any, Any]:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        vocab_size=50,
    )  # fmt: skip
    return transformers.BertModel(config), {"input_ids": torch.arange(14).view(2, 7)}


def gpt2() -> tuple[Any, Any]:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=50, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.arange(14).view(2, 7)}


def llama() -> tuple[Any, Any]:
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=50,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.arange(14).view(2, 7)}


def resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1])
    return transformers.ResNetModel(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


# model -> what has to be fused somewhere
MODELS: dict[str, tuple[Callable[[], tuple[Any, Any]], set[tuple[str, ...]]]] = {
    "bert": (bert, {("gelu",), ("dropout", "residual")}),
    "gpt2": (gpt2, set()),
    "llama": (llama, {("silu",)}),
    "resnet": (resnet, {("batch norm",), ("batch norm", "relu")}),
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    make, fused = MODELS[name]
    model, inputs = make()
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ in ("Linear", "Conv1D", "Conv2d"):
                module.weight.mul_(torch.rand(module.weight.shape) > 0.85)
        want = model(**inputs)[0]
        before = {name: t.clone() for name, t in model.state_dict().items()}
        report = st.sparsify_(model)
        assert {row.fused for row in report} - {()} == fused
        assert set(report.skipped) <= {"lm_head", "transformer.wte"}, "tied to each other"
        # a different order of the same float32 sums; the layers' bounds are tested on their own
        torch.testing.assert_close(model(**inputs)[0], want)
        with pytest.raises(st.errors.InputError, match="save_pretrained would write"):
            model.save_pretrained(tmp_path)
        st.densify_(model)
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert torch.equal(model(**inputs)[0], want)
    model.save_pretrained(tmp_path)
