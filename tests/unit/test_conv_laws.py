"""The laws of a convolution's arguments: each its own error, with law, values and remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from sparse_triton import SparseFilter, conv2d, conv2d_pool, errors
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare
from sparse_triton.geometry import geometry_of
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import ConvProblem

CPU = Device.of(torch.device("cpu"))
X = torch.randn(2, 4, 9, 8)
W = torch.randn(6, 4, 3, 3)
TWO_GROUPS = SparseFilter.from_dense(W, 2)
SHORT = torch.zeros(2, 6, 7, 5)
BROKEN: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (errors.InputError, "X must be a torch tensor, got list", {"X": [1.0]}),
    (errors.ShapeError, r"X must have shape \[B, C, H, W\] or \[C, H, W\]", {"X": X[0, 0]}),
    (errors.ShapeError, "X must be a dense tensor", {"X": X.to_sparse()}),
    (errors.DtypeError, "X must be float32, float16 or bfloat16", {"X": X.double()}),
    (errors.ShapeError, r"W takes 4 channels \(groups = 1\), X .* has 3", {"X": X[:, :3]}),
    (errors.ShapeError, "does not fit an image of 2 x 8", {"X": X[:, :, :2]}),
    (errors.ShapeError, "W must have rank 4", {"W": W[0]}),
    (errors.ShapeError, "at least one channel, row and column", {"W": W[:, :, :0]}),
    (errors.DtypeError, "W must be float32, float16 or bfloat16", {"W": W.double()}),
    (errors.InputError, "W must be a SparseFilter or a torch tensor, got list", {"W": [1.0]}),
    (errors.ShapeError, "groups must be a divisor of W's 6 filters, got 4", {"groups": 4}),
    (errors.ShapeError, "groups must be a divisor of W's 6 filters, got 0", {"groups": 0}),
    (errors.ShapeError, "W takes 8 channels .*, X .* has 4", {"groups": 2}),
    (errors.ShapeError, "prepared for groups = 2, the call has 1", {"W": TWO_GROUPS}),
    (errors.ShapeError, r"bias must have shape \(6,\)", {"bias": torch.zeros(5)}),
    (errors.DtypeError, "bias must have X's dtype", {"bias": torch.zeros(6).half()}),
    (errors.ShapeError, r"residual must have shape \(2, 6, 7, 6\)", {"residual": SHORT}),
    (errors.DeviceError, "bias is on meta", {"bias": torch.zeros(6, device="meta")}),
    (errors.InputError, "stride must be one or two whole numbers >= 1, got 0", {"stride": 0}),
    (errors.InputError, r"stride must be .*, got \(1, 2, 3\)", {"stride": (1, 2, 3)}),
    (errors.InputError, "dilation must be .*, got 1.5", {"dilation": 1.5}),
    (errors.InputError, "padding must be .* >= 0, got -1", {"padding": -1}),
    (errors.InputError, 'padding must be "same", "valid" or numbers', {"padding": "full"}),
    (errors.InputError, r'"same" needs stride 1, got \(2, 2\)', {"padding": "same", "stride": 2}),
    (errors.ActivationError, "activation must be None or one of", {"activation": "tanh"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "change"), BROKEN)
def test_laws(error: type[Exception], words: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        conv2d(**{"X": X, "W": W, **change})


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (errors.InputError, 'pool must be "max" or "avg", got \'mean\'', {"pool": "mean"}),
        (errors.InputError, "pool_kernel must be .* >= 1, got 0", {"pool_kernel": 0}),
        (errors.InputError, "pool_stride must be .* >= 1, got 0", {"pool_stride": 0}),
        (errors.ShapeError, r"at most half of pool_kernel .*, got \(2, 2\)", {"pool_padding": 2}),
        (errors.ShapeError, "does not fit the convolution's 7 x 6 pixels", {"pool_kernel": 9}),
    ],
)  # fmt: skip
def test_laws_of_the_pool(error: type[Exception], words: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        conv2d_pool(X, W, **change)


def test_impossible_configurations() -> None:
    call = ConvCall(X, None, None, None, geometry_of((3, 3), 1, 1, 1, 1))
    matrix = SparseFilter.from_dense(W).matrix
    for config, words in (
        (KernelConfig("cpu", Gy=65), "Gy must be at most 64"),
        (KernelConfig("cpu", M_blocks=0), "M_blocks must be at least 1"),
        (KernelConfig("abacus"), "kernel must be one of"),
    ):
        with pytest.raises(errors.ConfigError, match=words):
            prepare(matrix, call, config)
    huge = ConvProblem(1, 2**13, 2**10, 2**10, 4, 3, 3, 9)
    assert "use more N_blocks" in str(why_not(huge, KernelConfig("cpu"), CPU))
    assert why_not(huge, CONV_FAMILIES["cpu"].default_config(huge, CPU), CPU) is None


@pytest.mark.parametrize(
    ("shape", "groups", "words"),
    [
        ((6, 4, 3, 2), 1, "is a matrix of shape (6, 24) (all channels), got (6, 36)"),
        ((6, 4, 3), 1, "W must have rank 4"),
        ((6, 2, 3, 3), 2, "entries outside the blocks of its 2 groups"),
    ],
)
def test_filters_of_a_matrix(shape: Any, groups: int, words: str) -> None:
    matrix = SparseFilter.from_dense(W).matrix
    assert SparseFilter.from_matrix(matrix, (6, 4, 3, 3)).to_dense().equal(W)
    with pytest.raises(errors.ShapeError, match=re.escape(words)):
        SparseFilter.from_matrix(matrix, shape, groups)
