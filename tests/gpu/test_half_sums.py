"""Float16 sums on a GPU: their bound, the same bits again, and through the public calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparse_triton as st
from sparse_triton import verify
from sparse_triton.call import Call
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.plan import why_not
from sparse_triton.problem import Epilogue
from tests.support import PATTERNS, bind, draw_config, problem_for, weight

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("seed", range(12))
def test_drawn_programs(seed: int) -> None:
    device, rng = Device.of(torch.device("cuda")), np.random.default_rng(seed)
    W = weight(PATTERNS[seed % len(PATTERNS)], 48, 96, 0.15, seed)
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    W = st.SparseMatrix.from_dense(W.to_dense().to(dtypes[seed % 3]))
    problem = problem_for(
        W,
        (64, 196, 3136)[seed // 2 % 3],
        batch=1 + seed % 2,
        x_dtype="float16",
        accumulate="float16",
        y_layout=("row", "column")[seed // 3 % 2],
        epilogue=(Epilogue(), Epilogue(True, True, "relu"))[seed % 2],
    )
    config = draw_config(rng, problem, device, "unrolled", vector=(2, 4)[seed % 2])
    assert config is not None and verify.half_roundings(problem, config) >= 16
    bound = bind(W, problem, config, "cuda", seed)
    first = bound.result()
    assert bound.ratio(first) <= 1.0
    assert torch.equal(first.view(torch.int16), bound.result().view(torch.int16))


def test_tiny_and_huge_weights() -> None:
    """What is no normal float16 number is multiplied in float32."""
    w = weight("random", 32, 64, 0.2).to_dense()
    w[:, ::3] *= 1e-6
    w[:, 1::5] *= 1e5
    W = st.SparseMatrix.from_dense(w)
    problem = problem_for(W, 256, x_dtype="float16", accumulate="float16")
    config = KernelConfig("unrolled", 2, 4, vector=2, Gy=2)
    bound = bind(W, problem, config, "cuda")
    bound.X *= 2.0**-8
    assert bound.ratio(bound.result()) <= 1.0


def test_public_calls() -> None:
    W = weight("random", 64, 128, 0.1).to("cuda")
    X = torch.randn(128, 4096, device="cuda", dtype=torch.float16)
    call = Call(X, None, None, None, False, "float16")
    config = verify.config_of(W, call)
    assert why_not(problem_for(W, 4096, x_dtype="float16"), config, Device.of(X.device)) is None
    for _ in range(2):
        assert verify.call_ratio(st.spmm(W, X, accumulate="float16"), W, call, config) <= 1.0
    compiled = torch.compile(lambda x: st.spmm(W, x, accumulate="float16"), fullgraph=True)
    assert torch.equal(compiled(X), st.spmm(W, X, accumulate="float16"))
