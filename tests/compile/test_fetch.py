"""The code whose fetching ``python -m benchmarks fetch`` times is there, once and in full."""

from __future__ import annotations

import re

import pytest

from benchmarks.fetch import PLACEMENTS, source, table
from sparse_triton.build import compile_kernel, resources, sass


@pytest.mark.parametrize("lanes", [128, 512])
def test_every_version_is_straight_code(lanes: int) -> None:
    kernel = compile_kernel(source(200, 3, lanes, [0, 1, 2]), 90)
    text = sass(kernel)
    assert len(re.findall(r"\bFFMA\b", text)) == 3 * 200
    assert len(re.findall(r"SR_CLOCKLO", text)) == 2 and "BRX" in text
    assert resources(kernel).spill_bytes == 0


def test_neighbours_and_versions() -> None:
    chosen = {n: [f(i, 8, 4) for i in range(8)] for n, f in PLACEMENTS.items()}
    assert chosen["all the same"] == [0] * 8
    assert chosen["in equal parts"] == chosen["one a pair"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert chosen["two in a pair"] == [0, 1, 2, 3] * 2


def test_table() -> None:
    row = {"kb": 59, "lanes": 512, "placement": "one a pair", "warm": 23.0, "cold": 52.1}
    assert table([row]).endswith("| 59 | 512 | one a pair | 23.0 | 52.1 |")
