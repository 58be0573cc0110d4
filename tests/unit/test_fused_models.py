"""The dense contestant's fused calls: found where they are, and the same network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks import fused_models
from benchmarks.dense_models import fold_batch_norms_
from benchmarks.networks.mobilenet_v1 import MobileNetV1
from benchmarks.networks.resnet50 import ResNet50
from benchmarks.networks.vgg19 import VGG19
from sparse_triton.kernels.dense_conv import fuses
from sparse_triton.problem import ConvProblem, Epilogue

Tensor = torch.Tensor


def relu(X: Tensor, W: Tensor, b: Any, *how: Any) -> Tensor:
    return F.relu(F.conv2d(X, W, b, *how))


def add_relu(X: Tensor, W: Tensor, z: Tensor, alpha: float, b: Any, *how: Any) -> Tensor:
    return F.relu(F.conv2d(X, W, b, *how) + alpha * z)


COUNTS = {ResNet50: (33, 16), MobileNetV1: (14, 0), VGG19: (16, 0)}


@pytest.mark.parametrize("make", COUNTS)
def test_every_relu_after_a_convolution(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_models, "RELU", relu)
    monkeypatch.setattr(fused_models, "ADD_RELU", add_relu)
    with torch.device("meta"):
        model = make()
    fused = fused_models.fuse_relus(fold_batch_norms_(model.eval()))
    called = Counter(node.target for node in fused.graph.nodes)
    assert (called[relu], called[add_relu]) == COUNTS[make]
    assert fused(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_models, "RELU", relu)
    monkeypatch.setattr(fused_models, "ADD_RELU", add_relu)
    model = ResNet50().groups[0].eval()
    X = torch.randn(1, 64, 9, 9)
    fused = fused_models.fuse_relus(fold_batch_norms_(model))
    torch.testing.assert_close(fused(X), model(X), rtol=0, atol=0)


def test_which_dense_convolutions_fuse() -> None:
    problem = ConvProblem(
        1, 8, 9, 9, 4, 3, 3, 50, padding=(1, 1, 1, 1), epilogue=Epilogue(activation="relu")
    )
    assert fuses(problem) and fuses(replace(problem, groups=4))
    for other in (
        replace(problem, epilogue=Epilogue(activation="gelu")), replace(problem, groups=8),
        replace(problem, x_dtype="float16", w_dtype="float16"), replace(problem, nnz=0),
        replace(problem, padding=(0, 1, 0, 1)), replace(problem, w_dtype="float16"),
    ):  # fmt: skip
        assert not fuses(other)
