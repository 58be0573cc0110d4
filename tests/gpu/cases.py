"""Which kernels the GPU tests run: drawn once, the same in every worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.support import PATTERNS, draw_config, problem_for, weight

H100 = Device.virtual_cuda(90)
ROWS, DEPTHS = (1, 7, 33, 64, 96), (1, 5, 64, 128)
COLUMNS = (1, 8, 49, 64, 196, 256, 3136, 4096, 4099)
DTYPES = ("float32", "float16", "bfloat16")
EPILOGUES = (
    Epilogue(),
    Epilogue(activation="relu"),
    Epilogue(bias=True),
    Epilogue(bias=True, activation="gelu"),
    Epilogue(residual=True, activation="silu"),
    Epilogue(bias=True, residual=True, activation="relu"),
)


@dataclass(frozen=True)
class Case:
    """One kernel: the weight by its seed, so that a case is a few words."""

    pattern: str
    density: float
    seed: int
    problem: SpmmProblem
    config: KernelConfig

    def weight(self) -> SparseMatrix:
        return drawn_weight(self.pattern, self.density, self.seed, self.problem)

    def __str__(self) -> str:
        p = self.problem
        e = p.epilogue
        words = [
            f"{p.batch}x{p.M}x{p.K}x{p.N}", self.pattern, p.x_dtype, f"w_{p.w_dtype}",
            f"{p.x_layout}-{p.y_layout}", f"{e.bias:d}{e.residual:d}{e.activation}",
            str(self.config),
        ]  # fmt: skip
        return f"{self.seed} " + " ".join(words)


def drawn_weight(pattern: str, density: float, seed: int, problem: SpmmProblem) -> SparseMatrix:
    W = weight(pattern, problem.M, problem.K, density, seed)
    return SparseMatrix.from_dense(W.to_dense().to(getattr(torch, problem.w_dtype)))


def cases(family: str, count: int) -> list[Case]:
    """``count`` legal cases; each value of each field of the space is forced in turn."""
    out: list[Case] = []
    for seed in range(20 * count):
        rng = np.random.default_rng([seed, *family.encode()])
        case = _case(rng, family, seed, len(out))
        if case is not None:
            out.append(case)
        if len(out) == count:
            return out
    raise AssertionError(f"{family}: only {len(out)} of {count} cases are legal")


def _case(rng: np.random.Generator, family: str, seed: int, turn: int) -> Case | None:
    def pick(values: tuple[Any, ...]) -> Any:
        return values[rng.integers(len(values))]

    pattern, density = pick(PATTERNS), pick((0.02, 0.1, 0.25))
    M, K = pick(ROWS), pick(DEPTHS)
    if pattern == "full":
        M, K = min(M, 33), min(K, 64)
    shape = SpmmProblem(M, K, 1, 1, w_dtype=pick(DTYPES))
    W = drawn_weight(pattern, density, seed, shape)
    layouts = {"unrolled": ("row",), "turned": ("column",), "pairs": ("row",)}.get(
        family, ("row", "column")
    )
    problem = problem_for(
        W,
        pick(COLUMNS),
        batch=pick((1, 1, 3)),
        x_dtype=pick(DTYPES),
        x_layout=pick(layouts),
        y_layout=pick(("row", "column")),
        epilogue=pick(EPILOGUES),
    )
    space = FAMILIES[family].space(problem, H100)
    wanted = [(name, value) for name, values in _rare(space).items() for value in values]
    forced = dict([wanted[turn % len(wanted)]]) if wanted else {}
    config = draw_config(rng, problem, H100, family, **forced)
    return None if config is None else Case(pattern, density, seed, problem, config)


def _rare(space: Any) -> dict[str, tuple[Any, ...]]:
    """Fields whose every value must come up; the counts of blocks come up by themselves."""
    return {n: v for n, v in space.items() if n not in ("M_blocks", "N_blocks")}
