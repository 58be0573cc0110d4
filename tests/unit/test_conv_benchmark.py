"""The layers that ``benchmarks conv`` measures, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.conv_problems import ConvLayer, MAX_2x2, conv_layers, pool_layers
from benchmarks.conv_report import details, plot, speedup, summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data with one 3x3 pattern: tap (r, s) = (1, 2) of channel 1, in (r, s, c) order."""
    column = (1 * 3 + 2) * 2 + 1
    (tmp_path / "a.smtx").write_text(f"2, 18, 1\n0 1 1\n{column}\n")
    entry = {"problem": 1, "C_in": 2, "C_out": 2, "H": 4, "W": 4, "weights": {"0.9": "a.smtx"}}
    (tmp_path / "problems.json").write_text(json.dumps({"conv3x3": [entry]}))
    return tmp_path


def test_published_patterns_are_channels_last(folder: Path) -> None:
    layer = next(conv_layers(folder, ("0.9",), (1,)))
    dense = layer.load().to_dense()
    assert torch.nonzero(dense).tolist() == [[0, 1, 1, 2]]


def test_layers(folder: Path) -> None:
    layers = list(conv_layers(folder, ("0.9",), (1, 32)))
    assert {layer.batch for layer in layers} == {1, 32}
    vgg = [layer for layer in layers if "VGG" in layer.name and layer.batch == 1]
    assert sum(layer.count for layer in vgg) == 16
    assert len({layer.name for layer in vgg}) == len(vgg)
    strided = [layer for layer in layers if layer.stride == 2 and layer.batch == 1]
    assert [layer.size for layer in strided] == [56, 28, 14]
    small = ConvLayer("drawn", 4, 7, 8, "0.9")
    assert small.load().nnz == round(0.1 * 8 * 4 * 9)


def test_pooled_layers_are_vgg_s() -> None:
    layers = list(pool_layers(("0.9",), (1,)))
    assert [(layer.C, layer.size) for layer in layers] == [
        (64, 224), (128, 112), (256, 56), (512, 28), (512, 14),
    ]  # fmt: skip
    assert all(layer.pool == MAX_2x2 for layer in layers)
    problem = layers[-1].problem(1000, bias=True)
    assert problem.y_size == (7, 7)
    assert problem.epilogue.activation == "relu"


def row(layer: str, us: dict[str, float], count: int = 1, stride: int = 1) -> dict[str, Any]:
    return {
        "layer": layer, "network": layer.partition(" ")[0], "stride": stride, "count": count,
        "batch": 1, "sparsity": "0.9", "choice": "heuristic", "config": {"conv2d": "gather(M=1)"},
        "us": {name: {"us": t} for name, t in us.items()},
    }  # fmt: skip


ROWS = [
    row("ResNet-50 1", {"cudnn_fp32": 40.0, "conv2d": 10.0, "gather": 20.0}),
    row("VGG-19 64, 224", {"cudnn_fp32": 90.0, "conv2d": 10.0}, count=3),
    row("VGG-19 3 to 64, 224", {"cudnn_fp32": 10.0, "conv2d": 10.0, "gather": 5.0}),
]


def test_tables() -> None:
    assert speedup(ROWS[0], "conv2d") == 4.0
    text = summary(ROWS)
    assert "ResNet-50 3x3, batch 1, 90% zeros, 1 layers | 2.00 | 4.00 |" in text
    vgg = np.exp(3 * np.log(9) / 4)  # a shape counts as often as the network has it
    assert f"VGG-19, batch 1, 90% zeros, 4 layers | 2.00 (1) | {vgg:.2f} |" in text
    assert "| ResNet-50 1 | 1 | 90% | 40.0 | 20.0 | 10.0 | 4.00 | gather (heuristic) |" in details(
        ROWS
    )


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(ROWS, "title", tmp_path / "conv.png")
    assert (tmp_path / "conv.png").stat().st_size > 1000
