"""Runs kernels in plain Triton under the interpreter: the walk of gather, turning, normalising and
attention, or all of tf32x3; prints one JSON line a case.

A program of its own, because Triton reads ``TRITON_INTERPRET`` when a kernel is defined:
``TRITON_INTERPRET=1 python -m tests.unit.interpreted [tf32x3]``.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterator

import numpy as np
import torch

from sparse_triton import SparseMatrix
from sparse_triton.build import run_interpreted
from sparse_triton.device import Device
from sparse_triton.kernels.attention import Form, attention_source
from sparse_triton.kernels.gather.kernel import gather_source
from sparse_triton.kernels.layer_norm import layer_norm_source
from sparse_triton.kernels.tf32x3.kernel import tf32x3_source
from sparse_triton.kernels.turned.kernel import turn_source
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.bounds import attention, layer_norm, worst
from tests.support import Bound, draw_config, problem_for, weight, with_operands

EPILOGUES = (
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(residual=True),
    Epilogue(bias=True, residual=True, activation="relu"),
    Epilogue(bias=True, activation="gelu"),
    Epilogue(residual=True, activation="silu"),
)


def bound_cases() -> Iterator[tuple[str, Bound]]:
    """Every pair of layouts with every epilogue, and patterns with padding and an infinite X."""
    W = weight("ragged", 13, 21, 0.15, seed=0)
    for i, (x_layout, y_layout) in enumerate(itertools.product(("row", "column"), repeat=2)):
        for j, epilogue in enumerate(EPILOGUES):
            problem = problem_for(
                W, (1, 9, 33)[(i + j) % 3], batch=1 + j % 2, x_layout=x_layout, y_layout=y_layout,
                x_dtype=("float32", "float16", "bfloat16")[(i + 2 * j) % 3], epilogue=epilogue,
            )  # fmt: skip
            yield f"{problem} {x_layout}-{y_layout} {epilogue}", interpreted(W, problem, 6 * i + j)
    for i, pattern in enumerate(("empty_rows", "empty_columns", "one", "full", "random")):
        V = weight(pattern, 7, 12, 0.3, seed=1)
        bound = interpreted(V, problem_for(V, 10), i)
        bound.X[..., 5, 3] = float("inf")
        yield f"{pattern} with Inf", bound


def tensor_core_cases() -> Iterator[tuple[str, Bound]]:
    """Every pair of layouts with every epilogue, tiles that M, K and N do not fill."""
    W = weight("ragged", 37, 45, 0.4, seed=0)
    device = Device.virtual_cuda(80)  # the interpreter knows no dependent launch
    for i, (x_layout, y_layout) in enumerate(itertools.product(("row", "column"), repeat=2)):
        for j, epilogue in enumerate(EPILOGUES):
            problem = problem_for(
                W, (1, 49, 261)[(i + j) % 3], batch=1 + j % 2, x_layout=x_layout,
                y_layout=y_layout, epilogue=epilogue,
            )  # fmt: skip
            config = draw_config(np.random.default_rng(6 * i + j), problem, device, "tf32x3")
            assert config is not None
            plan = plan_spmm(problem, config, W.csr, device)
            run = functools.partial(run_interpreted, tf32x3_source(plan))
            name = f"{problem} {x_layout}-{y_layout} {epilogue}"
            yield name, with_operands(plan, W, run, "cpu")


def interpreted(W: SparseMatrix, problem: SpmmProblem, seed: int) -> Bound:
    device = Device.virtual_cuda(90)
    rng = np.random.default_rng(seed)
    config = draw_config(
        rng,
        problem,
        device,
        "gather",
        vector=1,
        repeat=1,
        row_blocks=("sorted", "even_nnz")[seed % 2],
    )
    assert config is not None
    plan = plan_spmm(problem, config, W.csr, device)
    run = functools.partial(run_interpreted, gather_source(plan, naive=True))
    return with_operands(plan, W, run, "cpu")


def turned_cases() -> Iterator[tuple[str, bool]]:
    """Whether token-major X arrives turned, whatever its extents are to the tiles."""
    for N, K, batch in ((1, 5, 1), (32, 64, 2), (33, 31, 3), (100, 7, 1)):
        X = torch.randn(batch, N, K)
        turned = torch.full((batch, K, N), float("nan"))
        run_interpreted(turn_source(N, K, batch, "float32", 90, naive=True), X, turned)
        yield f"turn {batch}x{N}x{K}", torch.equal(turned, X.mT)


def norm_cases() -> Iterator[tuple[str, float]]:
    """Both formats of Y, extents that tokens and features do not fill."""
    for feature_major in (False, True):
        for N, K, affine in ((1, 5, True), (9, 33, True), (6, 16, False)):
            x = torch.randn(N, K) + 3.0
            gain, bias = (torch.randn(K), torch.randn(K)) if affine else (None, None)
            source = layer_norm_source(
                N, K, feature_major, "float32", 1e-5, affine, affine, 90, naive=True
            )
            Y = torch.full((K, N) if feature_major else (N, K), float("nan"))
            run_interpreted(source, x, Y, bias, gain)
            ratio = worst(Y.mT if feature_major else Y, layer_norm(x, gain, bias, 1e-5))
            yield f"norm {N}x{K} {feature_major}", ratio


def attention_cases() -> Iterator[tuple[str, float]]:
    """Both formats of everything; one tile and several, filled and not."""
    for i, (tokens, keys, batch) in enumerate(((16, 128, 1), (5, 130, 2), (33, 9, 1))):
        for turned in itertools.product((False, True), repeat=2):
            q, k, v, y = (
                formatted(torch.randn(batch, 2, n, 32), t)
                for n, t in ((tokens, turned[0]), (keys, turned[1]), (keys, turned[0]),
                             (tokens, turned[1]))
            )  # fmt: skip
            forms = [
                Form(t.stride(0), t.stride(1), max(t.stride()[2:]), t.stride(2) == 1)
                for t in (q, k, v, y)
            ]
            source = attention_source(
                (batch, 2, tokens, 32), keys, (forms[0], forms[1], forms[2], forms[3]),
                0.3 + i, 90, naive=True,
            )  # fmt: skip
            run_interpreted(source, q, y.fill_(float("nan")), k, v)
            yield f"attend {tokens}x{keys} {turned}", worst(y, attention(q, k, v, 0.3 + i))


def formatted(t: torch.Tensor, turned: bool) -> torch.Tensor:
    return t.mT.contiguous().mT if turned else t


if __name__ == "__main__":
    of_tensor_cores = sys.argv[1:] == ["tf32x3"]
    for name, right in () if of_tensor_cores else turned_cases():
        print(json.dumps({"case": name, "ratio": 0.0 if right else 2.0}), flush=True)
    for name, ratio in () if of_tensor_cores else norm_cases():
        print(json.dumps({"case": name, "ratio": ratio}), flush=True)
    for name, ratio in () if of_tensor_cores else attention_cases():
        print(json.dumps({"case": name, "ratio": ratio}), flush=True)
    for name, bound in tensor_core_cases() if of_tensor_cores else bound_cases():
        case = f"{name} {bound.plan.config}"
        print(json.dumps({"case": case, "ratio": bound.ratio(bound.result())}), flush=True)
