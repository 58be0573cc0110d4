"""Family pairs: the matching, and the packed weight read back as a tensor core reads it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_triton import numerics, verify
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.pairs.asm import emit
from sparse_triton.kernels.pairs.estimate import WAYS
from sparse_triton.kernels.pairs.limits import BLOCK_K, Tile
from sparse_triton.kernels.pairs.matching import NO_PARTNER, pair_columns
from sparse_triton.kernels.pairs.pack import Packed, pack
from sparse_triton.kernels.tf32x3.split import split
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import SpmmProblem
from tests.support import PATTERNS, problem_for, weight

GPU = replace(Device.virtual_cuda(90), shared_bytes=227 * 1024)
FAMILY = FAMILIES["pairs"]


def read_back(packed: Packed, shape: tuple[int, int], block_m: int, half: bool) -> np.ndarray:
    """[M, K]: what the products multiply X with, thread by thread, as the PTX ISA has it: those in
    TF32, or those in bfloat16."""
    M, K = shape
    dense = np.zeros((-(-M // block_m) * block_m, K), np.float32)
    rows_of_x = np.array([order_of(step, half) for step in packed.order.view(np.uint32)])
    for at in np.ndindex(len(packed.values), block_m // 64, 2, 128, 4):
        step, tile, product, thread, register = at
        value = packed.values[at]
        if value == 0:
            continue
        warp, g, t, h = thread // 32, thread % 32 // 4, thread % 4, register % 2
        words = packed.selectors.view(np.uint32)[step, tile, 32 * warp + 4 * g :][:4]
        if half:  # registers are packed by two: t and t + 4 of TF32 are neighbours here
            slot = 8 * product + 2 * t + register // 2
            word = int(words[slot // 8, 1]) ^ 0x88888888
            quad = word >> (16 * h + 4 * (slot % 8 // 2)) & 0xF
            place = slot // 2 * 4 + (quad >> 2 * (slot % 2) & 3)
        else:
            slot = t + 4 * (register // 2)
            word = int(words[2 * product + slot // 4, 0]) ^ 0x44444444
            code = word >> (16 * h + 4 * (slot % 4)) & 0xF
            place = 16 * product + 2 * slot + {0b0100: 0, 0b1110: 1}[code]
        block = step // packed.longest
        assert step % packed.longest < packed.steps[block]
        dense[block * block_m + 64 * tile + 16 * warp + g + 8 * h, rows_of_x[step, place]] += value
    return dense[:M]


def order_of(words: np.ndarray, half: bool) -> np.ndarray:
    """[BLOCK_K] rows of X at each place of one step in shared memory, as the loaders store them."""
    out = np.full(BLOCK_K, -1)
    for q, load in enumerate(words):
        rows = np.array([[word & 0xFFFF, word >> 16] for word in load]).ravel()
        if half:
            out[8 * q : 8 * q + 8] = rows[[0, 1, 4, 5, 2, 3, 6, 7]]
        else:
            piece = q % 2 + q // 2 * 4
            out[4 * piece : 4 * piece + 4] = rows[:4]
            out[4 * piece + 8 : 4 * piece + 12] = rows[4:]
    return out


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("M", "K", "block_m"), [(70, 96, 128), (130, 41, 128), (400, 70, 256)])
def test_packed_weight_is_the_weight(pattern: str, M: int, K: int, block_m: int) -> None:
    W = weight(pattern, M, K, 0.06, seed=2)
    packed = pack(W.csr, block_m)
    for half in (False, True):
        assert np.array_equal(read_back(packed, W.shape, block_m, half), W.csr.to_dense())
    assert not (packed.steps % (256 // block_m)).any()


@pytest.mark.parametrize("tile", [way.tile for way in WAYS], ids=str)
def test_a_stage_is_full_when_all_have_arrived(tile: Tile) -> None:
    """Barriers count the warps with a column and one that has W copied, and the bytes it copies."""
    text = emit(tile, dependent_launch=True).text
    arrivals = [int(n) for n in re.findall(r"mbarrier.init\S+ \[\S+\], (\d+);", text)]
    warps = -(-tile.block_n // 32)
    assert arrivals == [1 + warps, 8] * (len(arrivals) // 2)
    expected = [int(n) for n in re.findall(r"expect_tx\S+ _, \[full\], (\d+);", text)]
    copied = [int(n) for n in re.findall(r"cp.async.bulk\S+ \[o\], \[p\w\], (\d+),", text)]
    assert expected == [sum(copied)] == [tile.stage_bytes - 2 * tile.half_bytes]


def rows_of(bits: list[int], rows: int) -> np.ndarray:
    return np.array([[bit >> r & 1 for bit in bits] for r in range(rows)], dtype=bool)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**9 - 1), min_size=1, max_size=40))
def test_pairs_are_a_matching(bits: list[int]) -> None:
    occupied = rows_of(bits, 9)
    pairs = pair_columns(occupied)
    placed = pairs[pairs != NO_PARTNER]
    assert sorted(placed) == np.flatnonzero(occupied.any(axis=0)).tolist()
    together = pairs[pairs[:, 1] != NO_PARTNER]
    assert not (occupied[:, together[:, 0]] & occupied[:, together[:, 1]]).any()
    alone = pairs[pairs[:, 1] == NO_PARTNER, 0]
    for i, a in enumerate(alone):
        for b in alone[i + 1 :]:
            assert (occupied[:, a] & occupied[:, b]).any(), "two that are left go together"
    assert np.array_equal(pairs, pair_columns(occupied))


def test_the_swap_finds_what_greed_misses() -> None:
    """1101 and 0010 would leave 1100 and 0001 with 0011 alone: five columns, but two pairs fit."""
    occupied = rows_of([0b1110, 0b0001, 0b0101, 0b1010], 4)
    assert (pair_columns(occupied) != NO_PARTNER).all()


@pytest.mark.parametrize(("density", "rows", "most"), [(0.1, 128, 1.0), (0.1, 256, 1.03)])
def test_nearly_every_column_finds_a_partner(density: float, rows: int, most: float) -> None:
    W = weight("random", rows, 2048, density)
    pairs = pair_columns(W.csr.to_dense() != 0)
    assert 2 * len(pairs) <= most * 2048


@pytest.mark.parametrize("nnz", [1, 30])
@pytest.mark.parametrize("seed", range(4))
def test_reference_is_within_the_bound(seed: int, nnz: int) -> None:
    W = weight("random", 40, 300, nnz / 300, seed)
    X = torch.randn(W.shape[1], 49, generator=torch.Generator().manual_seed(seed))
    problem = problem_for(W, 49)
    plan = plan_spmm(problem, FAMILY.default_config(problem, GPU), W.csr, GPU)
    Y = torch.from_numpy(FAMILY.reference(plan, X.numpy()))
    assert verify.worst_ratio(Y, W, X, arithmetic="tf32_bf16") <= 1.0
    high, w = split(X.numpy()).high, split(W.csr.to_dense())
    without = Y - torch.from_numpy(w.high @ (X.numpy() - high))  # one of the small products
    assert verify.worst_ratio(without, W, X, arithmetic="tf32_bf16") > 1.0


def test_the_law() -> None:
    lengths, one = np.array([0, 10, 1000]), np.ones((3, 1))
    law = numerics.error_bound(lengths, one, one, arithmetic=FAMILY.arithmetic)
    assert np.allclose(law[:, 0] * 2**24, 13 * lengths + 133, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"x_layout": "column"}, "row-major"),
        ({"N": 7}, "columns"),
        ({"K": 70_000}, "K must be at most"),
        ({"x_dtype": "float16"}, "float32"),
        ({"nnz": 0}, "nothing"),
    ],
)
def test_problems_it_refuses(change: dict[str, Any], law: str) -> None:
    problem = SpmmProblem(512, 256, 8192, 10_000)
    config = FAMILY.default_config(problem, GPU)
    assert FAMILY.why_not(problem, config, GPU) is None
    assert law in str(FAMILY.why_not(replace(problem, **change), config, GPU))


def test_devices_and_tiles_it_refuses() -> None:
    problem = SpmmProblem(512, 256, 8192, 10_000)
    config = FAMILY.default_config(problem, GPU)
    assert "sm_90" in str(FAMILY.why_not(problem, config, Device.virtual_cuda(80)))
    assert "256 rows" in str(FAMILY.why_not(problem, replace(config, M_blocks=1), GPU))
    assert "128 columns" in str(FAMILY.why_not(problem, replace(config, N_blocks=1), GPU))
    little = replace(GPU, shared_bytes=48 * 1024)
    assert "shared memory" in str(FAMILY.why_not(problem, config, little))
