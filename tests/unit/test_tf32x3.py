"""Family tf32x3: the halves, the law of three products, and the Triton kernel, interpreted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.space import SearchSpace
from sparse_triton import SparseMatrix, numerics, verify
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.tf32x3.limits import BLOCK_K, Tile, tile_of, warps_of
from sparse_triton.kernels.tf32x3.split import cut, halves_for, rounded, split
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.strategies import legal_configs, matrices
from tests.support import problem_for, weight

GPU = Device.virtual_cuda(90)
FAMILY = FAMILIES["tf32x3"]
P = SpmmProblem(512, 256, 8192, 60_000)
CONFIG = FAMILY.default_config(P, GPU)
U = 2.0**-24


@given(x=st.floats(2.0**-102, 2.0**127, width=32), sign=st.sampled_from([-1.0, 1.0]))
def test_halves(x: float, sign: float) -> None:
    """high + low is x; each is a TF32 number, low up to one last place of x, as the law assumes."""
    number = np.array([sign * x], dtype=np.float32)
    high, low = split(number)
    assert high.astype(np.float64) + low == number
    assert np.array_equal(cut(high), high)
    assert abs(low) <= 2.0**-11 * x
    assert abs(low.astype(np.float64) - cut(low)) <= 2 * U * x


def tensor_core(a: np.ndarray, b: np.ndarray, acc: np.ndarray, step: int = 8) -> np.ndarray:
    """acc + a @ b as the law's tensor core does it, the worst case: exact products, ``step`` at a
    time, addends and result cut to 24 bits at the place of the largest."""
    acc = acc.astype(np.float64)
    for at in range(0, a.shape[1], step):
        products = a[:, at : at + step, None].astype(np.float64) * b[None, at : at + step]
        addends = np.concatenate([acc[:, None], products], axis=1)
        largest = np.abs(addends).max(axis=1, keepdims=True)
        place = 2.0 ** (np.floor(np.log2(np.maximum(largest, 1e-300))) - 23)
        total = (np.trunc(addends / place) * place).sum(axis=1)
        place = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(total), 1e-300))) - 23)
        acc = np.trunc(total / place) * place
    return acc


def emulated(W: SparseMatrix, X: np.ndarray, terms: tuple[str, ...]) -> torch.Tensor:
    """The family's sums on that tensor core, of some of the three products."""
    w, x = split(W.csr.to_dense()), split(X)
    halves = {"high": (w.high, x.high), "low": (cut(w.low), cut(x.low))}
    large = small = np.zeros((W.shape[0], X.shape[1]))
    for name in terms:
        a, b = name.split("-")
        if name == "high-high":
            large = tensor_core(halves[a][0], halves[b][1], large)
        else:
            small = tensor_core(halves[a][0], halves[b][1], small)
    return torch.from_numpy(large.astype(np.float32) + small.astype(np.float32))


THREE = ("low-high", "high-low", "high-high")


@pytest.mark.parametrize("pattern", ["random", "ragged", "full", "one", "empty_rows"])
def test_a_cutting_tensor_core_is_within_the_law(pattern: str) -> None:
    W = weight(pattern, 24, 96, 0.3, seed=2)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for X in (rng.standard_normal((96, 16)), rng.random((96, 16)) + 1):
            x = X.astype(np.float32)
            Y = emulated(W, x, THREE)
            ratio = verify.worst_ratio(Y, W, torch.from_numpy(x), arithmetic="tf32x3")
            assert ratio <= 1.0


@pytest.mark.parametrize("dropped", THREE)
def test_a_missing_product_breaks_the_law(dropped: str) -> None:
    W = weight("random", 24, 96, 0.3, seed=2)
    X = torch.randn(96, 16, generator=torch.Generator().manual_seed(0))
    Y = emulated(W, X.numpy(), tuple(t for t in THREE if t != dropped))
    assert verify.worst_ratio(Y, W, X, arithmetic="tf32x3") > 1.0


def test_the_law_is_for_tensor_cores_alone() -> None:
    assert {f.name for f in FAMILIES.values() if f.arithmetic != "float32"} == {"tf32x3", "pairs"}
    lengths, one = np.array([0, 10, 1000]), np.ones((3, 1))
    fp32, wide = (
        numerics.error_bound(lengths, one, one, arithmetic=a) for a in ("float32", "tf32x3")
    )
    assert np.allclose(fp32[:, 0] / U, lengths + 3, rtol=1e-3)
    assert np.allclose(wide[:, 0] / U, 5 * lengths + 13, rtol=1e-3)


@given(data=st.data(), W=matrices(most=40, dtypes=(torch.float32,)).filter(lambda W: W.nnz > 0))
def test_reference_is_within_the_bound(data: st.DataObject, W: SparseMatrix) -> None:
    if np.abs(W.csr.values).min() < 2.0**-102:
        return
    problem = problem_for(W, data.draw(st.sampled_from([1, 49])))
    config = data.draw(legal_configs(problem, GPU, "tf32x3"))
    X = torch.randn(W.shape[1], problem.N, generator=torch.Generator().manual_seed(0))
    plan = plan_spmm(problem, config, W.csr, GPU)
    Y = torch.from_numpy(FAMILY.reference(plan, X.numpy()))
    assert verify.worst_ratio(Y, W, X, arithmetic="tf32x3") <= 1.0


def test_the_weight_is_written_out_once_in_whole_tiles() -> None:
    W = weight("random", 33, 70, 0.2)
    halves = halves_for(W.csr, 64)
    assert halves is halves_for(W.csr, 64)
    assert halves.high.shape == halves.low.shape == (64, 3 * BLOCK_K)
    assert np.array_equal((halves.high + halves.low)[:33, :70], W.csr.to_dense())
    assert not halves.high[33:].any() and not halves.high[:, 70:].any()


def test_rounding_goes_to_the_nearest() -> None:
    x = np.array([1 + 2.0**-11, 1 + 2.0**-11 - 2.0**-23, -1 - 2.0**-11], dtype=np.float32)
    assert rounded(x).tolist() == [1 + 2.0**-10, 1.0, -1 - 2.0**-10]
    assert np.isinf(rounded(np.array([np.inf], dtype=np.float32)))[0]


@pytest.mark.parametrize(
    ("problem", "config", "device", "words"),
    [
        (replace(P, x_dtype="float16"), CONFIG, GPU, "X and W must be float32, got float16"),
        (replace(P, w_dtype="bfloat16"), CONFIG, GPU, "X and W must be float32"),
        (P, CONFIG, Device.virtual_cuda(75), "need sm_80, the device is sm_75"),
        (replace(P, nnz=0), CONFIG, GPU, "nothing to multiply; use kernel='dense'"),
        (replace(P, N=2**24), CONFIG, GPU, "at most 8388608"),
        (replace(P, M=2**17, K=2**13), CONFIG, GPU, "written out twice"),
        (P, replace(CONFIG, M_blocks=1), GPU, "use more M_blocks or N_blocks"),
        (P, replace(CONFIG, prefetch=1), GPU, "use prefetch=2"),
        (P, replace(CONFIG, prefetch=16), GPU, "use a smaller prefetch"),
    ],
)
def test_refusals(problem: SpmmProblem, config: KernelConfig, device: Device, words: str) -> None:
    reason = why_not(problem, config, device)
    assert reason is not None and words in reason


def test_large_tiles_need_wgmma_and_a_short_epilogue() -> None:
    roomy = replace(GPU, shared_bytes=227 * 1024)
    long = replace(P, epilogue=Epilogue(residual=True, activation="gelu"))
    ampere = Device.virtual_cuda(80)
    for problem, device, rows, warps in (
        (P, roomy, 128, 4),
        (long, roomy, 64, 8),
        (P, ampere, 64, 8),
    ):
        assert tile_of(problem, FAMILY.default_config(problem, device)).block_m == rows
        assert warps_of(Tile(128, 64), problem, device) == warps
        assert warps_of(Tile(64, 128), problem, device) == 8
        assert warps_of(Tile(64, 64), problem, device) == 4


@pytest.mark.parametrize(
    ("M", "K", "N", "tile", "prefetch"),
    [
        (1024, 1024, 1568, (128, 64), 3),  # 32.3 us; 128 x 128 36.6, 64 x 64 38.0
        (1024, 512, 1568, (128, 64), 3),  # 17.7; 64 x 128 20.3
        (512, 2048, 8192, (128, 64), 3),  # 128; 128 x 128 139
        (2048, 512, 1568, (128, 64), 3),  # 35.2; 128 x 128 39.7
        (256, 1024, 6272, (64, 64), 3),  # 28.6; 128 x 64 32.5
        (512, 512, 6272, (64, 64), 3),  # 30.7; 128 x 128 39.9
        (512, 2048, 1568, (64, 64), 4),  # 36.1; one step less ahead, and three share: 49.5
        (20, 2048, 1568, (32, 64), 4),
    ],
)
def test_default_takes_the_tile_measured_fastest(
    M: int, K: int, N: int, tile: tuple[int, int], prefetch: int
) -> None:
    problem, h100 = SpmmProblem(M, K, N, M * K // 10), replace(GPU, shared_bytes=227 * 1024)
    config = FAMILY.default_config(problem, h100)
    assert (tile_of(problem, config), config.prefetch) == (tile, prefetch)


def test_tuning_tries_few_of_it() -> None:
    few, sparse, half = replace(P, N=256), replace(P, nnz=5000), replace(P, x_dtype="float16")
    for problem, count in ((P, 36), (few, 1), (sparse, 1), (half, 0)):
        fields = SearchSpace.of(problem, GPU).families.get("tf32x3", {})
        assert math.prod(len(values) for values in fields.values()) == max(1, count)
        assert bool(fields) == bool(count)
        if count:
            own = FAMILY.default_config(problem, GPU)
            assert all(getattr(own, name) in values for name, values in fields.items())


def test_kernel_in_the_interpreter() -> None:
    """Layouts, epilogues, ragged shapes, batches; in a process of its own."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(root)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.interpreted", "tf32x3"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 4 * 6
    for case in found:
        assert case["ratio"] <= 1.0, case["case"]
