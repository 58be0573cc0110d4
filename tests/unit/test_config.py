"""Configurations: JSON and back, the laws all families share."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton.config import (
    KernelConfig,
    ceil_div,
    counts_why_not,
    grid_of,
    next_power_of_two,
    powers_of_two,
)
from sparse_triton.errors import ConfigError

CONFIG = KernelConfig("unrolled", 4, 8, Gy=2, vector=4, row_blocks="even_nnz", sync_every=128)
NUMBERS = [f.name for f in fields(KernelConfig) if isinstance(f.default, int)]


def test_round_trip_through_json() -> None:
    assert KernelConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert KernelConfig.from_dict({"kernel": "dense"}) == KernelConfig("dense")
    assert set(CONFIG.to_dict()) == {f.name for f in fields(KernelConfig)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_m": 3}, r"remove \['block_m'\]"),
        ({"Gy": "2"}, "Gy must be int, got '2'"),
        ({"Gy": True}, "Gy must be int, got True"),
        ({"Gy": 2.0}, "Gy must be int, got 2.0"),
        ({"kernel": 3}, "kernel must be str, got 3"),
        ({"row_blocks": 1}, "row_blocks must be str, got 1"),
    ],
)
def test_foreign_dictionaries(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KernelConfig.from_dict({**CONFIG.to_dict(), **change})


def test_kernel_must_be_named() -> None:
    with pytest.raises(ConfigError, match="name the kernel"):
        KernelConfig.from_dict({"Gy": 2})


def test_text_shows_what_differs_from_the_default() -> None:
    assert str(CONFIG) == (
        "unrolled(M_blocks=4, N_blocks=8, Gy=2, vector=4, row_blocks=even_nnz, sync_every=128)"
    )
    assert str(KernelConfig("dense")) == "dense(M_blocks=1, N_blocks=1, Gy=1)"


@pytest.mark.parametrize("name", [n for n in NUMBERS if n not in ("spare", "sync_every", "chunk")])
def test_counts_are_positive(name: str) -> None:
    for bad in (0, -1):
        reason = counts_why_not(replace(CONFIG, **{name: bad}), ("even_nnz",))  # type: ignore[arg-type]
        assert reason == f"{name} must be at least 1, got {bad}"


def test_spare_is_not_negative() -> None:
    reason = counts_why_not(replace(CONFIG, spare=-25), ("even_nnz",))
    assert reason == "spare must be 0 per cent or more, got -25"


def test_other_laws() -> None:
    ways = ("even_nnz",)
    assert counts_why_not(CONFIG, ways) is None
    assert "got -1" in str(counts_why_not(replace(CONFIG, sync_every=-1), ways))
    reason = counts_why_not(CONFIG, ("sorted",))
    assert reason == "row_blocks must be one of ('sorted',) for unrolled, got 'even_nnz'"
    diagonal = replace(CONFIG, fastest="diagonal")  # type: ignore[arg-type]
    assert counts_why_not(diagonal, ways) == 'fastest must be "rows" or "columns", got \'diagonal\''


@given(n=st.integers(0, 2**40))
def test_next_power_of_two(n: int) -> None:
    p = next_power_of_two(n)
    assert p & (p - 1) == 0
    assert p >= n
    assert p == 1 or p // 2 < n


@given(a=st.integers(0, 2**60), b=st.integers(1, 2**30))
def test_ceil_div(a: int, b: int) -> None:
    q = ceil_div(a, b)
    assert (q - 1) * b < a <= q * b


def test_powers_of_two() -> None:
    assert powers_of_two(1, 8) == (1, 2, 4, 8)
    assert powers_of_two(1, 7) == (1, 2, 4)
    assert powers_of_two(4, 1) == (4,)


def test_grid_order() -> None:
    assert grid_of(CONFIG, 2, 3, 4) == (2, 3, 4)
    assert grid_of(replace(CONFIG, fastest="columns"), 2, 3, 4) == (3, 2, 4)
