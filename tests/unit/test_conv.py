"""``conv2d`` and ``conv2d_pool`` on the CPU: every argument crossed, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_triton import SparseFilter, conv2d, conv2d_pool, verify
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare, problem_of
from sparse_triton.geometry import Geometry, geometry_of, pool_of
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.kernels.dense_conv import pool_of as torch_pool
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import ConvProblem, Pool
from sparse_triton.verify_conv import conv_bound, conv_truth
from tests.strategies import ACTIVATIONS, DTYPES
from tests.support import GUARD_VALUE, guarded, mask

F = torch.nn.functional
CPU = Device.of(torch.device("cpu"))


@st.composite
def filters(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES) -> SparseFilter:
    """Any small weight: groups, empty groups, empty filters, asymmetric kernels, all densities."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    M, C = groups * draw(st.integers(1, 5)), draw(st.integers(1, 4))
    shape = (M, C, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from([0.0, 0.15, 0.5, 1.0]))
    columns = int(np.prod(shape[1:]))
    pattern = draw(st.sampled_from(["random", "empty_rows", "empty_columns", "one"]))
    keep = mask(pattern, M, columns, density, rng) if density else np.zeros((M, columns), bool)
    if groups > 1 and draw(st.booleans()):
        keep[: M // groups] = False  # an empty group
    values = np.where(keep, rng.standard_normal((M, columns)), 0.0).reshape(shape)
    return SparseFilter.from_dense(
        torch.from_numpy(values).to(draw(st.sampled_from(dtypes))), groups
    )


@st.composite
def geometries(draw: st.DrawFn, W: SparseFilter) -> tuple[Geometry, int, int]:
    """A geometry and the image's rows and columns: down to one pixel, kernels larger than it."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation = draw(pairs), draw(pairs)
    padding: Any = draw(st.sampled_from([0, 1, (2, 3), "valid", "same"]))
    if padding == "same":
        stride = (1, 1)
    geometry = geometry_of(W.kernel, stride, padding, dilation, W.groups)
    top, bottom, left, right = geometry.padding
    least = (
        max(1, dilation[0] * (W.kernel[0] - 1) + 1 - top - bottom),
        max(1, dilation[1] * (W.kernel[1] - 1) + 1 - left - right),
    )
    H, width = (n + draw(st.sampled_from([0, 1, 6])) for n in least)
    width += draw(st.sampled_from([0, 0, 140]))  # more than a register tile
    if draw(st.booleans()):
        window = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        border = (draw(st.integers(0, window[0] // 2)), draw(st.integers(0, window[1] // 2)))
        pool = pool_of(draw(st.sampled_from(["max", "avg"])), window, draw(pairs), border)
        if min(geometry._replace(pool=pool).y_size(H, width)) >= 1:
            geometry = geometry._replace(pool=pool)
    return geometry, H, width


@st.composite
def calls(draw: st.DrawFn, W: SparseFilter) -> ConvCall:
    geometry, H, width = draw(geometries(W))
    B, C = draw(st.sampled_from([1, 1, 2])), W.shape[1] * W.groups
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> torch.Tensor:
        t = guarded(shape, dtype, "cpu").tensor
        t.copy_(torch.from_numpy(rng.standard_normal(shape)))
        return t

    X = normal(B, C, H, width)
    if draw(st.booleans()):
        X = normal(B, H, width, C).permute(0, 3, 1, 2)
    bias = normal(W.shape[0]) if draw(st.booleans()) else None
    residual = None
    if draw(st.booleans()):
        residual = normal(B, W.shape[0], *geometry.conv_size(H, width))
    return ConvCall(X, bias, residual, draw(st.sampled_from(ACTIVATIONS)), geometry)


def cpu_configs() -> st.SearchStrategy[KernelConfig]:
    return st.builds(
        KernelConfig, kernel=st.just("cpu"),
        M_blocks=st.sampled_from([1, 2, 3, 16]), N_blocks=st.sampled_from([1, 2, 64]),
        Gy=st.sampled_from([1, 2, 5]),
        row_blocks=st.sampled_from(["even_rows", "even_nnz", "sorted"]),
    )  # fmt: skip


@given(data=st.data(), config=st.one_of(cpu_configs(), st.just(KernelConfig("dense"))))
def test_every_argument(data: st.DataObject, config: KernelConfig) -> None:
    """Inside the bound, in X's memory format, the same bits twice; nothing beside X is read."""
    W = data.draw(filters())
    call = data.draw(calls(W))
    launch = prepare(W.matrix, call, config)
    Y = launch(call, None)
    assert Y.shape == call.y_shape(W.shape[0])
    assert verify.call_ratio(Y, W.matrix, call, config) <= 1.0
    again = launch(call, None)
    assert Y.stride() == again.stride()
    bits = torch.int16 if Y.element_size() == 2 else torch.int32
    assert torch.equal(Y.view(bits), again.view(bits))


@given(data=st.data(), config=cpu_configs())
def test_nothing_beside_y_is_written(data: st.DataObject, config: KernelConfig) -> None:
    """The kernel itself, on a guarded Y full of NaN."""
    W = data.draw(filters((torch.float32,)))
    call = data.draw(calls(W))
    problem = problem_of(W.matrix, call)
    if not isinstance(problem, ConvProblem) or problem.x_dtype != "float32":
        return
    plan = plan_spmm(problem, config, W.matrix.csr, CPU)
    if problem.x_layout == "column":
        return
    Y = guarded(call.y_shape(W.shape[0]), torch.float32, "cpu", band=GUARD_VALUE)
    plan.family.build(plan).bind(torch.device("cpu"))(call.X, Y.tensor, call.bias, call.residual)
    assert Y.intact()
    assert verify.call_ratio(Y.tensor, W.matrix, call, config) <= 1.0


@given(data=st.data(), config=st.one_of(cpu_configs(), st.just(KernelConfig("dense"))))
def test_reference(data: st.DataObject, config: KernelConfig) -> None:
    """The decomposition's meaning in NumPy is the convolution."""
    W = data.draw(filters((torch.float32,)))
    geometry, H, width = data.draw(geometries(W))
    if geometry.pointwise:
        return
    X = torch.randn(1, W.shape[1] * W.groups, H, width)
    call = ConvCall(X, None, None, None, geometry._replace(pool=None))
    problem = problem_of(W.matrix, call)
    if not isinstance(problem, ConvProblem):
        return
    plan = plan_spmm(problem, config, W.matrix.csr, CPU)
    Y = torch.from_numpy(plan.family.reference(plan, X[0].numpy()))
    assert verify.call_ratio(Y[None], W.matrix, call, config) <= 1.0


@given(data=st.data())
def test_defaults_are_legal_and_stored(data: st.DataObject) -> None:
    W = data.draw(filters())
    problem = problem_of(W.matrix, data.draw(calls(W)))
    if isinstance(problem, ConvProblem):
        for family in CONV_FAMILIES.values():
            if family.device_kind in ("cpu", "any"):
                assert why_not(problem, family.default_config(problem, CPU), CPU) is None


# -- the public functions ------------------------------------------------------------------------


def drawn(*shape: int, density: float = 0.3) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


@pytest.mark.parametrize("density", [0.1, 0.9])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2)])
def test_as_torch(
    kernel: tuple[int, int], unbatched: bool, channels_last: bool, density: float
) -> None:
    w, X, bias = drawn(6, 4, *kernel, density=density), torch.randn(2, 4, 9, 8), torch.randn(6)
    if channels_last:
        X = X.contiguous(memory_format=torch.channels_last)
    X = X[0] if unbatched else X
    want = F.conv2d(X, w, bias, padding=(2, 1))
    residual = torch.randn_like(want)
    Y = conv2d(X, w, bias, padding=(2, 1), residual=residual, activation="relu")
    torch.testing.assert_close(Y, (want + residual).relu(), rtol=1e-4, atol=1e-4)
    pooled = conv2d_pool(X, w, bias, padding=(2, 1), pool="avg", pool_kernel=(3, 2), pool_padding=1)
    torch.testing.assert_close(
        pooled, F.avg_pool2d(want.relu(), (3, 2), padding=1), rtol=1e-4, atol=1e-4
    )
    if not unbatched:
        form = torch.channels_last if channels_last else torch.contiguous_format
        assert Y.is_contiguous(memory_format=form) and pooled.is_contiguous(memory_format=form)


def views() -> dict[str, torch.Tensor]:
    whole = torch.randn(4, 9, 12, 14)
    return {
        "misaligned": torch.randn(2 * 4 * 6 * 7 + 1)[1:].view(2, 4, 6, 7),
        "cut": whole[1:3, 2:6, 3:9, 4:11],
        "steps": whole[::2, 1::2, ::2, ::2],
        "expanded": whole[:1, :4, :6, :7].expand(3, 4, 6, 7),
        "turned": torch.randn(2, 4, 7, 6).mT,
        "channels-last, cut": torch.randn(2, 12, 14, 9).permute(0, 3, 1, 2)[:, :4, 2:8, 3:10],
        "channels-last, flipped batch": torch.randn(6, 2, 7, 4).permute(1, 3, 0, 2),
    }


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("name", views())
def test_views(name: str, kernel: tuple[int, int]) -> None:
    X, w = views()[name], drawn(6, 4, *kernel)
    bias = torch.randn(12)[::2]
    want = F.conv2d(X, w, bias, padding=1)
    residual = torch.randn(*want.shape[:2], want.shape[3], want.shape[2]).mT
    Y = conv2d(X, w, bias, padding=1, residual=residual)
    torch.testing.assert_close(Y, want + residual, rtol=1e-4, atol=1e-4)


def test_weights_in_any_form() -> None:
    w, X = drawn(6, 2, 3, 3), torch.randn(1, 4, 7, 7)
    want = F.conv2d(X, w, groups=2)
    for W in (w, w.to_sparse_coo(), torch.nn.Parameter(w), SparseFilter.from_dense(w, 2)):
        torch.testing.assert_close(conv2d(X, W, groups=2), want, rtol=1e-4, atol=1e-4)
    whole = drawn(6, 4, 3, 3)
    first = conv2d(X, whole)
    whole.mul_(2)  # seen: the version counter has moved
    torch.testing.assert_close(conv2d(X, whole), 2 * first, rtol=1e-4, atol=1e-4)
    one, two = drawn(4, 4, 1, 3), drawn(4, 4, 3, 1)
    for each in (one, one.view(4, 4, 3, 1), two):  # one matrix, two kernels
        torch.testing.assert_close(conv2d(X, each), F.conv2d(X, each), rtol=1e-4, atol=1e-4)


def test_no_images_and_no_filters() -> None:
    assert conv2d(torch.randn(0, 4, 5, 5), drawn(6, 4, 3, 3)).shape == (0, 6, 3, 3)
    assert conv2d(torch.randn(2, 4, 5, 5), torch.zeros(0, 4, 3, 3)).shape == (2, 0, 3, 3)
    Y = conv2d(torch.full((1, 4, 5, 5), torch.nan), torch.zeros(6, 4, 3, 3), torch.arange(6.0))
    assert torch.equal(Y, torch.arange(6.0)[:, None, None].expand(1, 6, 3, 3))


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_spread_as_in_torch(bad: float, kind: str) -> None:
    """Through stored weights, the activation and the pool; a zero weight stops them."""
    w = torch.zeros(4, 2, 3, 3)
    w[:, 0, 0, 0], w[1, 1, 2, 1] = 1.0, -2.0
    X = torch.randn(1, 2, 12, 40)
    X[0, 0, 5, 17] = X[0, 1, 3, 3] = bad
    Y = conv2d_pool(X, w, padding=1, activation=None, pool=kind)
    call = ConvCall(
        X, None, None, None,
        geometry_of((3, 3), 1, 1, 1, 1, Pool("max" if kind == "max" else "avg", (2, 2), (2, 2))),
    )  # fmt: skip
    matrix = SparseFilter.from_dense(w).matrix
    assert verify.call_ratio(Y, matrix, call, verify.config_of(matrix, call)) <= 1.0
    stored = [F.conv2d(X[:, c : c + 1], w[:, c : c + 1], padding=1) for c in range(2)]
    assert not torch.isfinite(stored[0]).all() and Y[0, 0].isfinite().sum() >= Y[0, 0].numel() - 4
    if kind == "max" and bad != -torch.inf:
        assert not Y[0, 0].isfinite().all()


@given(
    seed=st.integers(0, 100),
    kind=st.sampled_from(["max", "avg"]),
    roundings=st.sampled_from([1, 2]),
)
@example(seed=0, kind="max", roundings=2)
def test_the_pooled_bound_holds_and_bites(seed: int, kind: str, roundings: int) -> None:
    """The largest legal errors stay legal through the pool, three times them do not."""
    torch.manual_seed(seed)
    W = SparseFilter.from_dense(drawn(4, 3, 3, 3))
    pool = Pool("max" if kind == "max" else "avg", (2, 3), (1, 2), (1, 1))
    X = torch.randn(1, 3, 9, 9)
    call = ConvCall(X, None, None, "relu", geometry_of((3, 3), 1, 1, 1, 1, pool))
    y64, magnitude = conv_truth(W.matrix, call)
    plain = conv_bound(W.matrix, y64, magnitude, "float32", "relu", None)
    sign = np.random.default_rng(seed).choice([-1.0, 1.0], y64.shape)
    Y = torch_pool(torch.from_numpy(y64 + 0.9 * sign * plain), pool)
    assert verify.worst_conv_ratio(Y.float(), W.matrix, call, roundings=roundings) <= 1.1
    far = torch_pool(torch.from_numpy(y64 + 3.0 * plain), pool)
    bound = conv_bound(W.matrix, y64, magnitude, "float32", "relu", pool)
    exact = torch_pool(torch.from_numpy(y64), pool)
    assert bool(((far - exact).abs() > torch.from_numpy(bound)).any())
