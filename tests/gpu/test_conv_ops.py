"""``conv2d`` and ``conv2d_pool`` on a GPU, whatever family is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sparse_triton import SparseFilter, conv2d, conv2d_pool, verify
from sparse_triton.conv_call import ConvCall
from sparse_triton.geometry import geometry_of, pool_of

pytestmark = pytest.mark.gpu
F = torch.nn.functional

GEOMETRIES: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": "same", "dilation": 2},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
    {"groups": 4, "padding": "same"},
]
POOLS: list[dict[str, Any]] = [
    {},
    {"pool": "max", "pool_kernel": 2},
    {"pool": "avg", "pool_kernel": 3, "pool_stride": 2, "pool_padding": 1},
]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """The bound is that of float32, also where the library's convolution is taken."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def drawn(density: float, groups: int, dtype: torch.dtype, kernel: tuple[int, int] = (3, 3)) -> Any:
    w = torch.randn(24, 16 // groups, *kernel) * (torch.rand(24, 16 // groups, *kernel) < density)
    return SparseFilter.from_dense(w.to(dtype), groups).to("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("density", [0.1, 0.6])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv(
    geometry: dict[str, Any], pool: dict[str, Any], memory_format: torch.memory_format,
    density: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    W = drawn(density, geometry.get("groups", 1), dtype, (3, 2))
    X = torch.randn(2, 16, 17, 15, device="cuda").to(dtype, memory_format=memory_format)
    bias = torch.randn(24, device="cuda").to(dtype)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **geometry}
    if pool:
        found = pool_of(
            pool["pool"], pool["pool_kernel"], pool.get("pool_stride"), pool.get("pool_padding", 0)
        )
        call = ConvCall(X, bias, None, "relu", geometry_of((3, 2), **options, pool=found))
        Y = conv2d_pool(X, W, bias, **options, **pool)
    else:
        call = ConvCall(X, bias, None, "relu", geometry_of((3, 2), **options))
        residual = torch.randn(call.y_shape(24), device="cuda").to(dtype)
        call = call._replace(residual=residual)
        Y = conv2d(X, W, bias, **options, activation="relu", residual=residual)
    assert Y.is_contiguous(memory_format=memory_format)
    ratio = verify.call_ratio(Y, W.matrix, call, verify.config_of(W.matrix, call))
    assert ratio <= 1.0


def test_dense_is_the_librarys() -> None:
    """What the dense family calls is bit for bit PyTorch's convolution."""
    X, w = torch.randn(2, 8, 9, 9, device="cuda"), torch.randn(4, 8, 3, 3, device="cuda")
    Y = conv2d(X, w, padding=1)
    torch.testing.assert_close(Y, F.conv2d(X, w, padding=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("added", [False, True])
def test_dense_keeps_nan(added: bool, dtype: torch.dtype) -> None:
    """Whatever call of the library does the ReLU."""
    X = torch.randn(2, 8, 9, 9, device="cuda").to(dtype)
    w, bias = torch.randn(4, 8, 3, 3).cuda().to(dtype), torch.randn(4).cuda().to(dtype)
    X[0, 3, 4, 5] = float("nan")
    residual = torch.randn(2, 4, 9, 9, device="cuda").to(dtype) if added else None
    Y = conv2d(X, w, bias, padding=1, activation="relu", residual=residual)
    want = F.conv2d(X, w, bias, padding=1)
    assert torch.equal(Y.isnan(), want.isnan()) and Y.isnan().any()
    assert (Y.nan_to_num() >= 0).all()


def test_gradients() -> None:
    W = drawn(0.2, 2, torch.float32)
    X = torch.randn(2, 16, 9, 8, device="cuda", requires_grad=True)
    bias = torch.randn(24, device="cuda", requires_grad=True)
    Y = conv2d_pool(X, W, bias, 2, 1, groups=2, activation="gelu", pool="max")
    want = F.max_pool2d(F.gelu(F.conv2d(X, W.to_dense(), bias, 2, 1, groups=2)), 2)
    grad = torch.randn_like(want)
    for mine, its in zip(
        torch.autograd.grad(Y, (X, bias), grad), torch.autograd.grad(want, (X, bias), grad),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_capture() -> None:
    """After one call outside, a graph replays on new values."""
    W = drawn(0.1, 1, torch.float32)
    X = torch.randn(1, 16, 14, 14, device="cuda")
    conv2d_pool(X, W, padding=1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        Y = conv2d_pool(X, W, padding=1)
    X.normal_()
    graph.replay()
    torch.testing.assert_close(Y, conv2d_pool(X, W, padding=1), rtol=0, atol=0)


def test_depthwise() -> None:
    w = torch.randn(16, 1, 3, 3, device="cuda") * (torch.rand(16, 1, 3, 3, device="cuda") < 0.7)
    X = torch.randn(2, 16, 9, 9, device="cuda")
    torch.testing.assert_close(
        conv2d(X, w, padding=1, groups=16), F.conv2d(X, w, padding=1, groups=16)
    )
