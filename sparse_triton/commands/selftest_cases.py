"""The fixed set of calls and configurations that ``selftest`` runs: the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from sparse_triton.call import Call
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.executor import AnyCall, problem_of
from sparse_triton.kernels.family import Family
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import why_not

# M, K, N, density: one element, one column, ragged extents, whole tiles, short and full rows.
SHAPES = (
    (1, 1, 1, 1.0),
    (33, 70, 1, 0.2),
    (37, 53, 29, 0.2),
    (64, 128, 64, 0.1),
    (5, 300, 200, 0.5),
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("row", "column", "tokens", "batch")
EPILOGUES = (
    (False, False, None),
    (True, False, "relu"),
    (True, True, "gelu"),
    (False, True, "silu"),
)
CONFIGS = 3  # the default one, and others drawn from the family's space


def cases(device: torch.device) -> Iterator[tuple[SparseMatrix, Call, str]]:
    """All dtypes x layouts x epilogues, each on one of the shapes in turn."""
    draw = torch.Generator().manual_seed(0)
    for i, (dtype, layout, epilogue) in enumerate(product(DTYPES, LAYOUTS, EPILOGUES)):
        M, K, N, density = SHAPES[i % len(SHAPES)]
        w_dtype = dtype if i % 4 else torch.float32
        W = _weight(M, K, density, draw).to(w_dtype)
        call = _call(M, K, N, dtype, layout, epilogue, draw)
        words = f"{M}x{K}x{N} {dtype} {layout}, W {w_dtype}, bias/residual/activation {epilogue}"
        words = words.replace("torch.", "")
        yield SparseMatrix.from_dense(W).to(device), _moved(call, device), words


def _weight(M: int, K: int, density: float, draw: torch.Generator) -> torch.Tensor:
    """[M, K] with one empty row and one full row where there is room."""
    keep = torch.rand((M, K), generator=draw) < density
    if M > 2:
        keep[0], keep[-1] = False, True
    return torch.randn((M, K), generator=draw) * keep


def _call(
    M: int, K: int, N: int, dtype: torch.dtype, layout: str,
    epilogue: tuple[bool, bool, str | None], draw: torch.Generator,
) -> Call:  # fmt: skip
    has_bias, has_residual, activation = epilogue
    tokens = layout == "tokens"

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    match layout:
        case "column":
            X = drawn(N, K).mT
        case "tokens":
            X = drawn(N, K)
        case "batch":
            X = drawn(2, K, N)
        case _:
            X = drawn(K, N)
    shape = (*X.shape[:-1], M) if tokens else (*X.shape[:-2], M, N)
    bias = drawn(M) if has_bias else None
    return Call(X, bias, drawn(*shape) if has_residual else None, activation, tokens)


def _moved(call: Call, device: torch.device) -> Call:
    on = [None if t is None else t.to(device) for t in (call.X, call.bias, call.residual)]
    assert on[0] is not None
    return call._replace(X=on[0], bias=on[1], residual=on[2])


def configs(
    family: Family[Any], W: SparseMatrix, call: AnyCall, device: Device
) -> Iterator[KernelConfig]:
    """The default and up to ``CONFIGS - 1`` more legal ones, the same ones every time."""
    problem = problem_of(W, call)
    default = family.default_config(problem, device)
    if why_not(problem, default, device) is not None:
        return
    yield default
    space = family.space(problem, device)
    draw = random.Random(f"{problem}")
    seen = {default}
    for _ in range(20 * CONFIGS):
        if len(seen) == CONFIGS:
            return
        picked: dict[str, Any] = {name: draw.choice(values) for name, values in space.items()}
        config = replace(default, **picked)
        if config not in seen and why_not(problem, config, device) is None:
            seen.add(config)
            yield config
