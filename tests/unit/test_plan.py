"""Plans: the heuristic is always legal, and a refusal names a remedy that works."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import ConfigError
from sparse_triton.heuristics import default_config
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import SpmmProblem
from tests.strategies import problems
from tests.support import draw_config, weight

GPUS = [Device.virtual_cuda(arch) for arch in (80, 90, 100)]
DEVICES = [*GPUS, Device("cpu", "a CPU", 0, 8)]
GPU = GPUS[1]


@settings(max_examples=400)
@given(problem=problems(), device=st.sampled_from(DEVICES))
@example(problem=SpmmProblem(1, 1, 1, 1), device=GPU)
@example(problem=SpmmProblem(2, 100_000, 3_000_000, 2_000), device=GPU)
def test_default_is_legal(problem: SpmmProblem, device: Device) -> None:
    config = default_config(problem, device)
    assert why_not(problem, config, device) is None
    assert FAMILIES[config.kernel].device_kind in (device.kind, "any")


@settings(max_examples=300)
@given(problem=problems(), device=st.sampled_from(DEVICES), family=st.sampled_from(list(FAMILIES)))
@example(problem=SpmmProblem(2, 65, 200, 130, x_dtype="float16"), device=GPU, family="gather")
def test_family_default_is_legal_where_any_configuration_is(
    problem: SpmmProblem, device: Device, family: str
) -> None:
    default = FAMILIES[family].default_config(problem, device)
    if why_not(problem, default, device) is not None:
        drawn = draw_config(np.random.default_rng(0), problem, device, family, tries=60)
        assert drawn is None, f"{drawn} is legal, {default} is not"


@given(problem=problems())
def test_dense_takes_everything(problem: SpmmProblem) -> None:
    for device in DEVICES:
        assert why_not(problem, KernelConfig("dense"), device) is None


P = SpmmProblem(512, 256, 1024, 5000)
SMALL = SpmmProblem(64, 64, 49, 400)
UNROLLED = KernelConfig("unrolled", 32, 16, Gy=2)
GATHER = KernelConfig("gather", 64, 32, Gy=2, row_blocks="sorted", prefetch=4)
REFUSALS: list[tuple[SpmmProblem, KernelConfig, Device, str, dict[str, Any] | None]] = [
    (
        P,
        replace(UNROLLED, kernel="magic"),
        GPU,
        r"kernel must be one of \[.*'unrolled'\], got 'mag",
        {"kernel": "dense"},
    ),
    (P, UNROLLED, DEVICES[-1], "unrolled runs on cuda, the device is cpu", None),
    (P, KernelConfig("cpu"), GPU, "cpu runs on cpu, the device is cuda", None),
    (P, replace(UNROLLED, Gy=3), GPU, "Gy must be a power of two, got 3", {"Gy": 4}),
    (P, replace(UNROLLED, vector=3), GPU, "vector must be 1, 2 or 4, got 3", {"vector": 2}),
    (
        SMALL,
        replace(UNROLLED, vector=2),
        GPU,
        "needs N divisible by it, got N=49; use vector=1",
        {"vector": 1},
    ),
    (
        P,
        replace(UNROLLED, N_blocks=1),
        GPU,
        r"2 \* 1024 threads, the limit is 1024; use N_blocks >= (?P<N_blocks>\d+)",
        {},
    ),
    (
        P,
        replace(UNROLLED, M_blocks=2, Gy=1),
        GPU,
        r"budget is \d+; use M_blocks >= (?P<M_blocks>\d+)",
        {},
    ),
    (
        P,
        replace(UNROLLED, M_blocks=1, vector=4, Gy=1),
        GPU,
        r"use M_blocks >= (?P<M_blocks>\d+)",
        {},
    ),
    (
        P,
        replace(UNROLLED, row_blocks="sorted"),
        GPU,
        r"row_blocks must be one of \('even_rows', 'even_nnz'\)",
        {"row_blocks": "even_rows"},
    ),
    (
        P,
        replace(UNROLLED, sync_every=64, Gy=16, N_blocks=512),
        GPU,
        "whole warps of 32 lanes, got 2; use sync_every=0",
        {"sync_every": 0},
    ),
    (
        replace(P, x_layout="column"),
        UNROLLED,
        GPU,
        "must have x_layout='row', got 'column'; use kernel='gather'",
        None,
    ),
    (
        replace(P, M=4000, K=4000, nnz=500_000),
        UNROLLED,
        GPU,
        "nnz=500000 would be as many instr.* use kernel='gather'",
        None,
    ),
    (
        replace(P, nnz=0),
        UNROLLED,
        GPU,
        "nothing to multiply; use kernel='dense'",
        {"kernel": "dense"},
    ),
    (replace(P, N=0), GATHER, GPU, "nothing to multiply; use kernel='dense'", {"kernel": "dense"}),
    (
        P,
        replace(GATHER, prefetch=3),
        GPU,
        "prefetch must be a power of two, got 3",
        {"prefetch": 4},
    ),
    (P, replace(GATHER, prefetch=1), GPU, "use prefetch=2", {"prefetch": 2}),
    (P, replace(GATHER, M_blocks=1), GPU, r"threads must lie in 32 \.\.\. 1024", {"M_blocks": 64}),
    (
        P,
        replace(GATHER, vector=16),
        GPU,
        r"power of two up to 4 \(16 bytes\), got 16",
        {"vector": 4, "M_blocks": 32},
    ),
    (
        SMALL,
        replace(GATHER, vector=2),
        GPU,
        "got N=49; use vector=1",
        {"vector": 1, "N_blocks": 2, "M_blocks": 8},
    ),
    (
        replace(P, x_layout="column"),
        replace(GATHER, vector=2),
        GPU,
        "X is token-major; use vector=1",
        {"vector": 1},
    ),
    (
        P,
        replace(GATHER, prefetch=64),
        GPU,
        "use a smaller prefetch or fewer threads",
        {"prefetch": 4},
    ),
    (
        replace(P, batch=70_000),
        GATHER,
        GPU,
        "batch must be at most 65535, got 70000; use kernel='dense'",
        {"kernel": "dense"},
    ),
    (
        replace(P, N=8_000_000),
        replace(GATHER, N_blocks=250_000),
        GPU,
        "N_blocks must be at most 65535",
        {"fastest": "columns"},
    ),
]


@pytest.mark.parametrize(("problem", "config", "device", "words", "remedy"), REFUSALS)
def test_refusal_says_why_and_its_remedy_works(
    problem: SpmmProblem, config: KernelConfig, device: Device, words: str,
    remedy: dict[str, Any] | None,
) -> None:  # fmt: skip
    reason = why_not(problem, config, device)
    assert reason is not None
    found = re.search(words, reason)
    assert found, reason
    csr = weight("one", 2, 2).csr
    with pytest.raises(ConfigError, match=words):
        plan_spmm(problem, config, csr, device)
    if remedy is not None:
        named = {name: int(value) for name, value in found.groupdict().items()}
        cured = replace(config, **{**remedy, **named})
        assert why_not(problem, cured, device) is None, cured


def test_exchange_remedy() -> None:
    """Shared memory runs out only where a single round of Gy places is too large."""
    config = KernelConfig("unrolled", 32, 1, Gy=16, vector=4)
    problem = replace(P, N=64)
    reason = why_not(problem, config, GPU)
    assert reason is not None
    assert "use more M_blocks or N_blocks, or a smaller Gy" in reason
    assert why_not(problem, replace(config, N_blocks=2), GPU) is None


def test_heuristic_families() -> None:
    assert default_config(replace(P, nnz=P.M * P.K // 2), GPU).kernel == "dense"
    assert default_config(replace(P, N=4096), GPU).kernel == "unrolled"
    assert default_config(replace(P, N=16), GPU).kernel == "gather"
    assert default_config(replace(P, N=4096, x_layout="column"), GPU).kernel == "turned"
    assert default_config(replace(P, N=8, x_layout="column"), GPU).kernel == "gather"
    assert default_config(replace(P, nnz=0), GPU).kernel == "dense"
    assert default_config(P, DEVICES[-1]).kernel == "cpu"


@pytest.mark.parametrize(
    ("M", "K", "N", "zeros", "dtype", "family"),
    [
        (512, 2048, 8192, 0.9, "float32", "pairs"),  # 81 us; tf32x3 126, cuBLAS 346
        (512, 2048, 8192, 0.7, "float32", "tf32x3"),  # too few columns find a partner
        (512, 512, 8192, 0.9, "float32", "pairs"),  # 25.9; unrolled 28.0, cuBLAS 89
        (512, 512, 6272, 0.9, "float32", "pairs"),  # 20.2; unrolled 22.2
        (128, 512, 25088, 0.9, "float32", "unrolled"),  # 28.1; pairs 34.0
        (256, 1024, 6272, 0.9, "float32", "pairs"),  # 20.8; tf32x3 30.2, unrolled 31 to 39
        (256, 1024, 6272, 0.95, "float32", "pairs"),  # 20.8; unrolled 23.7, tf32x3 28.6
        (512, 512, 8192, 0.5, "float32", "tf32x3"),
        (128, 64, 3136, 0.87, "float32", "gather"),  # 2.2; tf32x3 4.2, cuBLAS 4.5
        (512, 512, 256, 0.5998, "float32", "gather"),  # 6.4; cuBLAS 9.7
        (128, 128, 3136, 0.58, "float32", "gather"),  # 5.6 at 60 %, 8.6 at 50 %; cuBLAS 6.7
        (128, 128, 3136, 0.55, "float32", "dense"),
        (512, 512, 256, 0.85, "float16", "dense"),  # 3.1; gather 3.6
        (1024, 512, 49, 0.9, "float16", "gather"),
        (512, 512, 8192, 0.9, "float16", "dense"),
        (64, 256, 3136, 0.9, "float32", "unrolled"),  # 2.5; gather 3.0
        (64, 32, 12544, 0.9, "float32", "gather"),  # 2.4; unrolled 4.1
        (512, 2048, 1568, 0.9, "float32", "pairs"),  # 26.9; tf32x3 38.8, gather 60, cuBLAS 85
        (512, 2048, 1568, 0.95, "float32", "pairs"),  # as at 90 %; gather 34
        (512, 2048, 1568, 0.97, "float32", "gather"),
        (512, 2048, 8192, 0.95, "float32", "pairs"),  # 79.6; unrolled 79.6 to 90, gather 188
        (2048, 512, 1568, 0.95, "float32", "unrolled"),  # 25.2; pairs 28.1, tf32x3 36, gather 38
        (2048, 512, 1568, 0.9, "float32", "pairs"),  # 24.0; tf32x3 36, unrolled 52
        (2048, 512, 8192, 0.9, "float32", "pairs"),  # 102; unrolled 117, tf32x3 165
        (2048, 512, 8192, 0.95, "float32", "unrolled"),  # 91 to 100; tf32x3 162, gather 140
        (2048, 512, 256, 0.9, "float16", "dense"),  # 3.6; gather 6.2
        (512, 2048, 256, 0.9, "float16", "dense"),  # 5.2; gather 6.9
        (512, 2048, 1568, 0.95, "float16", "dense"),  # 8.4; gather 21.7
        (1024, 256, 196, 0.95, "float16", "gather"),  # 2.5; cuBLAS 5.4: rows are not aligned
    ],
)
def test_heuristic_takes_what_was_measured_fastest(
    M: int, K: int, N: int, zeros: float, dtype: str, family: str
) -> None:
    problem = SpmmProblem(M, K, N, round((1 - zeros) * M * K), x_dtype=dtype, w_dtype=dtype)
    assert default_config(problem, replace(GPU, shared_bytes=227 * 1024)).kernel == family
