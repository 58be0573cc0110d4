"""The benchmark's networks: published sizes, names of patterns, order of columns, scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.networks.mobilenet_v1 import MobileNetV1
from benchmarks.networks.resnet50 import ResNet50
from benchmarks.networks.transformer import LAYERS, EncoderLayer
from benchmarks.networks.vgg19 import VGG19
from benchmarks.networks.weights import calibrate, drawn_pattern, normal_values, set_weight
from sparse_triton.errors import ShapeError


@pytest.mark.parametrize(
    ("network", "parameters"),  # as torchvision and the papers count them
    [
        (ResNet50, 25_557_032),
        (VGG19, 143_667_240),
        (MobileNetV1, 4_231_976),
        (EncoderLayer, 18_914_304 // LAYERS),
    ],
)
def test_sizes_are_the_published_ones(network: type[nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        model = network()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_layer_of_resnet50_has_its_own_pattern() -> None:
    with torch.device("meta"):
        model = ResNet50()
    layers = dict(model.published())
    weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == len(weights) == 54
    assert {id(m) for m in layers.values()} == {id(m) for m in weights}
    assert layers["bottleneck_2_block_group3_5_1"].weight.shape == (256, 256, 3, 3)
    projection = layers["bottleneck_projection_block_group_projection_block_group2"]
    assert projection.weight.shape == (512, 256, 1, 1) and projection.stride == (2, 2)


def test_published_columns_are_in_r_s_c_order() -> None:
    conv = nn.Conv2d(2, 1, 3, bias=False)
    set_weight(conv, torch.arange(18.0).view(1, 18), channels_last=True)
    r, s, c = 1, 2, 1
    assert conv.weight[0, c, r, s] == (r * 3 + s) * 2 + c
    set_weight(conv, torch.arange(18.0).view(1, 18))
    assert conv.weight[0, c, r, s] == c * 9 + r * 3 + s


def test_a_weight_that_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"\[2, 9\] does not fit a layer of \[1, 2, 3, 3\]"):
        set_weight(nn.Conv2d(2, 1, 3), torch.ones(2, 9))


def test_drawn_patterns_are_sparse_and_values_keep_the_scale() -> None:
    keep = drawn_pattern(256, 512, seed=0)
    assert abs(float(keep.float().mean()) - 0.1) < 0.01
    w = normal_values(keep, seed=0)
    assert torch.equal(w != 0, keep)
    y = (w @ torch.randn(512, 64).relu() * 2**0.5).relu()
    assert 0.5 < float(y.square().mean()) < 2.0


def test_calibration_normalises_and_freezes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    nn.init.constant_(model[0].weight, 100.0)
    x = torch.randn(4, 3, 6, 6)
    y = calibrate(model, x)(x)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert abs(float(y.mean())) < 0.01 and abs(float(y.std()) - 1) < 0.02


@torch.no_grad()
def test_attention_written_out_is_the_same() -> None:
    layer, x = EncoderLayer().eval(), torch.randn(2, 5, 512)
    weight, library = layer.qkv.weight.clone(), layer(x)
    layer.write_attention(True)
    layer.write_attention(True)
    torch.testing.assert_close(layer(x), library)
    layer.write_attention(False)
    assert torch.equal(layer.qkv.weight, weight) and torch.equal(layer(x), library)
