"""Family ``cpu`` of convolutions beyond its results: choice, threads, slabs, 16-bit copies."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseFilter, conv2d
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import prepare
from sparse_triton.geometry import geometry_of
from sparse_triton.heuristics import default_config
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.kernels.cpu_conv import SLAB_BYTES, Slab, slab_bytes
from sparse_triton.problem import ConvProblem, Pool, taps

TWO_CORES = Device("cpu", "test", 0, cores=2)
P = ConvProblem(1, 64, 56, 56, 64, 3, 3, 3686, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "cpu"),
        ({"nnz": 16_500}, "cpu"),  # 55.2 % zeros
        ({"nnz": 16_000, "x_dtype": "bfloat16", "w_dtype": "bfloat16"}, "dense"),
        ({"nnz": 9_000, "x_dtype": "bfloat16", "w_dtype": "bfloat16"}, "cpu"),
        ({"nnz": 36_864, "x_dtype": "float16", "w_dtype": "float16"}, "cpu"),
        ({"nnz": 20_000}, "dense"),
        ({"nnz": 58, "groups": 64}, "dense"),  # depthwise
        ({"nnz": 58, "C": 1}, "cpu"),  # one channel is not depthwise
    ],
)
def test_break_even(changes: dict[str, Any], family: str) -> None:
    assert default_config(replace(P, **changes), TWO_CORES).kernel == family


@given(
    C=st.sampled_from([1, 64, 2048]), size=st.sampled_from([1, 7, 56, 224]),
    batch=st.sampled_from([1, 32]), stride=st.sampled_from([1, 2]),
    pool=st.sampled_from([None, Pool("max", (2, 2), (2, 2)), Pool("avg", (3, 3), (1, 1), (1, 1))]),
)  # fmt: skip
def test_default_tiles(C: int, size: int, batch: int, stride: int, pool: Pool | None) -> None:
    """A slab stays in the second cache, unless one row of pixels does not fit; no core is idle."""
    problem = replace(P, C=C, H=size, W=size, batch=batch, stride=(stride, stride), pool=pool)
    if min(problem.y_size) < 1:
        return
    config = CONV_FAMILIES["cpu"].default_config(problem, TWO_CORES)
    slab = Slab.of(problem, config)
    assert slab_bytes(problem, slab.tile_rows) <= SLAB_BYTES or slab.tile_rows == 1
    tiles = -(-problem.y_size[0] // slab.tile_rows)
    assert tiles * batch * config.M_blocks >= 2


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_taps_of_a_slab_are_phases(stride: int) -> None:
    """Offsets name each element of the slab that a pixel sees once; unused phases are left out."""
    problem = replace(P, C=2, stride=(stride, stride), dilation=(1, 2))
    slab = Slab.of(problem, KernelConfig("cpu", N_blocks=8))
    assert len(np.unique(slab.offsets)) == problem.K == len(taps(problem).c)
    places = {(r % stride, 2 * s % stride) for r in range(3) for s in range(3)}
    assert {tuple(p) for p in slab.phases.tolist()} == places
    assert slab.offsets.max() < 2 * len(slab.phases) * slab.rows * slab.width


def drawn() -> tuple[SparseFilter, ConvCall]:
    w = torch.randn(32, 16, 3, 3) * (torch.rand(32, 16, 3, 3) < 0.2)
    X = torch.randn(2, 16, 40, 40)
    return SparseFilter.from_dense(w), ConvCall(
        X,
        torch.randn(32),
        None,
        "gelu",
        geometry_of((3, 3), 1, 1, 1, 1, Pool("max", (3, 3), (2, 2))),
    )


def test_the_same_bits_however_many_threads() -> None:
    W, call = drawn()
    config = KernelConfig("cpu", M_blocks=3, N_blocks=5, Gy=2)
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(prepare(W.matrix, call, config)(call, None))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_calls_from_many_threads_at_once() -> None:
    """Scratch memory is each worker's own, and lives until its last task has ended."""
    W, call = drawn()
    launch = prepare(W.matrix, call, KernelConfig("cpu", M_blocks=2, N_blocks=7, Gy=3))
    want = launch(call, None)
    wrong = []

    def work() -> None:
        for _ in range(10):
            if not launch(call, None).equal(want):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_an_output_that_is_given_is_filled() -> None:
    W, call = drawn()
    launch = prepare(W.matrix, call, KernelConfig("cpu"))
    want = launch(call, None)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        out = torch.full_like(want, torch.nan, memory_format=memory_format)
        assert launch(call, out) is out and out.equal(want)


@pytest.mark.parametrize("w_dtype", [torch.float32, torch.bfloat16])
def test_dtypes_may_differ(w_dtype: torch.dtype) -> None:
    w = (torch.randn(6, 4, 3, 3) * (torch.rand(6, 4, 3, 3) < 0.3)).to(w_dtype)
    X = torch.randn(1, 4, 9, 9, dtype=torch.float16)
    want = torch.nn.functional.conv2d(X.float(), w.float(), padding=1)
    torch.testing.assert_close(conv2d(X, w, padding=1).float(), want, rtol=1e-3, atol=1e-3)
