"""What else the performance page shows, each where its result was committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Section:
    """``results/<stem>.json`` as text; ``<stem>.png`` is shown where it exists."""

    stem: str
    title: str
    about: str
    tables: Callable[[Rows], str]

    def text(self, results: Path) -> str | None:
        """Markdown; None where there is no result."""
        path = results / f"{self.stem}.json"
        if not path.exists():
            return None
        result = json.loads(path.read_text())
        facts = result["environment"]
        driver = f", driver {facts['driver']}" if "driver" in facts else ""
        picture = ""
        if (results / f"{self.stem}.png").exists():
            picture = f"\n\n![{self.title}](../benchmarks/results/{self.stem}.png)"
        where = (
            f"On one {facts['device']}{driver}, torch {facts['torch']}, Triton {facts['triton']}; "
            f"`python -m benchmarks {self.stem}`."
        )
        tables = self.tables(result["rows"])
        return f"### {self.title}\n\n{self.about} {where}\n\n{tables}{picture}"


def _sparsity(rows: Rows) -> str:
    from benchmarks.sparsity import table

    return table(rows)


def _convolutions(rows: Rows) -> str:
    from benchmarks.conv_report import details, summary

    return f"{summary(rows)}\n\nEvery layer, µs:\n\n{details(rows)}"


def _cpu_convolutions(rows: Rows) -> str:
    from benchmarks.cpu_conv import table

    return table(rows)


def _decode(rows: Rows) -> str:
    from benchmarks.decode_report import details, summary

    return f"{summary(rows)}\n\nEvery product:\n\n{details(rows)}"


def _llama(rows: Rows) -> str:
    from benchmarks.llama import table

    return table(rows)


def _models(rows: Rows) -> str:
    from benchmarks.models_report import latencies, searched, sizes

    return "\n\n".join(filter(None, [latencies(rows), searched(rows), sizes(rows)]))


SECTIONS = (
    Section(
        "sparsity", "From which sparsity on",
        "Two shapes from 50 to 98 % zeros, float32, and float16 against float16.", _sparsity,
    ),
    Section(
        "conv", "Convolutions",
        "3x3 layers of ResNet-50 and VGG-19 against cuDNN with `benchmark=True`.", _convolutions,
    ),
    Section(
        "convpool", "Convolution, bias, ReLU and pool in one kernel",
        "VGG-19's five pairs against the library's calls in one CUDA graph.", _convolutions,
    ),
    Section(
        "conv-cpu", "Convolutions on a CPU",
        "3x3 layers of ResNet-50 and VGG-19's pairs against PyTorch's convolution.",
        _cpu_convolutions,
    ),
    Section(
        "decode", "Few tokens: LLM layers at decode time",
        "Speed-up over the best dense 16-bit call, geometric mean over the shapes; weights rotated "
        "so that they come from memory. *Of read rate*: bytes of the compressed weight a second, "
        "as a share of the rate at which `torch.sum` reads a GiB.", _decode,
    ),
    Section(
        "llama", "Blocks of a 7B language model at decode time",
        "Llama-style blocks (RMSNorm, attention with KV cache, SwiGLU), random float16 weights "
        "pruned, CUDA graphs on both sides; weights are larger than any cache.", _llama,
    ),
    Section(
        "models", "Whole networks",
        "Pruned networks end to end, every contestant in a CUDA graph, one run a network. "
        "*Compiled* is `torch.compile(mode=\"max-autotune\")`; its search takes minutes for a "
        "convolutional network and takes part where `--compile` asks for it.", _models,
    ),
)  # fmt: skip
