"""Which of X and Y leaves the L2 cache first, on the problems where it was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparse_triton.device import Device
from sparse_triton.kernels.streams import Streamed, streamed
from sparse_triton.problem import SpmmProblem

H100 = Device("cuda", "H100", 90, cores=132, l2_bytes=52_428_800)


@pytest.mark.parametrize(
    ("M", "K", "N", "at_once", "first"),
    [
        (512, 128, 25088, False, "y"),  # Y 51.4 MB
        (256, 64, 100352, False, "y"),
        (128, 128, 100352, True, "y"),  # both 51.4 MB: Y does not fit, X may
        (128, 512, 25088, True, "x"),  # X 51.4 MB, Y 12.8: Y fits
        (64, 256, 100352, True, "x"),
        (256, 256, 25088, True, "x"),  # 25.7 MB each
        (256, 256, 25088, False, "none"),  # X is read again later
        (256, 128, 25088, True, "none"),  # 12.8 and 25.7 MB
        (512, 512, 256, True, "none"),
    ],
)
def test_what_does_not_fit(M: int, K: int, N: int, at_once: bool, first: Streamed) -> None:
    problem = SpmmProblem(M, K, N, M * K // 10)
    assert streamed(problem, H100, at_once) == first


def test_bytes_decide_not_columns() -> None:
    wide = SpmmProblem(512, 128, 25088, 6553)
    assert streamed(replace(wide, x_dtype="float16"), H100, False) == "none"
    assert streamed(replace(wide, N=784, batch=32), H100, False) == "y"
    assert streamed(wide, replace(H100, l2_bytes=126 * 2**20), False) == "none"


def test_older_gpus_have_no_policies() -> None:
    assert streamed(SpmmProblem(512, 128, 25088, 6553), replace(H100, arch=75), False) == "none"
