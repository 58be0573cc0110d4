"""``ConvProblem``: sizes, offsets, the index map, and its key in the store."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton.errors import StoreError
from sparse_triton.problem import ConvProblem, Epilogue, Pool, SpmmProblem, taps
from sparse_triton.records import Key

F = torch.nn.functional


@st.composite
def conv_problems(draw: st.DrawFn, most: int = 7) -> ConvProblem:
    """Any small geometry whose kernel fits the padded image."""
    R, S = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    least_h = max(1, dilation[0] * (R - 1) + 1 - padding[0] - padding[1])
    least_w = max(1, dilation[1] * (S - 1) + 1 - padding[2] - padding[3])
    layout = draw(st.sampled_from(["row", "column"]))
    return ConvProblem(
        draw(st.integers(1, 2)), draw(st.integers(1, 3)),
        draw(st.integers(least_h, least_h + most)), draw(st.integers(least_w, least_w + most)),
        draw(st.integers(1, 4)), R, S, 1,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding, dilation=dilation, x_layout=layout, y_layout=layout,
    )  # fmt: skip


@given(conv_problems())
def test_taps_address_the_padded_image(p: ConvProblem) -> None:
    """base + offset of every (pixel, tap) is its element, or in the padding."""
    X = torch.arange(p.C * p.H * p.W).double().view(1, p.C, p.H, p.W)
    top, bottom, left, right = p.padding
    patches = F.unfold(
        F.pad(X + 1, (left, right, top, bottom)), (p.R, p.S), dilation=p.dilation, stride=p.stride
    )[0]
    assert patches.shape == (p.K, p.N)
    memory = X if p.x_layout == "row" else X.permute(0, 2, 3, 1)
    flat = memory.reshape(-1).numpy()
    _, x_h, x_w = p.x_strides
    rows, columns = (i.ravel() for i in np.indices((p.P, p.Q)))
    base = p.origin + rows * p.stride[0] * x_h + columns * p.stride[1] * x_w
    at = taps(p).offset[:, None] + base[None]
    inside = patches.numpy() != 0
    assert np.array_equal(flat[at[inside]] + 1, patches.numpy()[inside])


def test_sizes_are_torchs() -> None:
    p = ConvProblem(2, 4, 11, 13, 6, 3, 5, 9, stride=(2, 1), padding=(1, 1, 2, 2), dilation=(1, 2),
                    pool=Pool("max", (3, 2), (2, 1), (1, 1)))  # fmt: skip
    y = F.conv2d(torch.zeros(2, 4, 11, 13), torch.zeros(6, 4, 3, 5), stride=(2, 1), padding=(1, 2),
                 dilation=(1, 2))  # fmt: skip
    assert tuple(y.shape[2:]) == (p.P, p.Q)
    assert p.y_size == tuple(F.max_pool2d(y, (3, 2), (2, 1), (1, 1)).shape[2:])
    assert p.flop == 2 * 9 * p.P * p.Q * 2
    assert "2x conv 3x5 4->6 on 11x13 stride 2x1 + max pool 3x2" in str(p)


def test_groups_do_not_count_as_zeros() -> None:
    p = ConvProblem(1, 8, 5, 5, 8, 3, 3, 72, groups=8)
    assert p.sparsity == 0.0


def test_key_of_a_product_is_what_it_was() -> None:
    """The hash names files of tuned configurations that exist."""
    key = Key(SpmmProblem(64, 256, 784, 1638, epilogue=Epilogue(bias=True)), "ab" * 32)
    assert key.sha256 == "41db0795cdeb0d827bbc799df641fd73283ba91d21146ae0fb8938d37262e2ad"


def test_key_of_a_convolution_survives_json() -> None:
    p = ConvProblem(
        2, 4, 11, 13, 6, 3, 5, 9, stride=(2, 1), padding=(1, 0, 2, 2), groups=2,
        epilogue=Epilogue(activation="relu"), pool=Pool("avg", (2, 2), (2, 2)),
    )  # fmt: skip
    key = Key(p, "ab" * 32)
    again = Key.from_dict(json.loads(json.dumps(key.to_dict())))
    assert again == key
    assert again.sha256 == key.sha256
    assert key.to_dict()["kind"] == "conv"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stride": [1]}, "2 whole numbers"),
        ({"padding": None}, "4 whole numbers"),
        ({"groups": "2"}, "groups must be int"),
        ({"pool": {"kind": "max", "kernel": 2}}, "2 whole numbers"),
        ({"wings": 2}, "not a problem of this version"),
    ],
)
def test_damaged_keys(change: dict[str, object], words: str) -> None:
    d = Key(ConvProblem(2, 4, 11, 13, 6, 3, 5, 9), "ab").to_dict()
    d["problem"].update(change)
    with pytest.raises(StoreError, match=words):
        Key.from_dict(d)
