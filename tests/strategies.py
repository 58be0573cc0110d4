"""Hypothesis strategies: weights, operands, problems and configurations."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from sparse_triton import SparseMatrix
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import why_not
from sparse_triton.problem import Epilogue, SpmmProblem
from tests.support import PATTERNS, mask

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALES = {"float32": (1.0, 1e-30, 1e-41, 1e15), "float16": (1.0, 1e-6), "bfloat16": (1.0, 1e-30)}
ACTIVATIONS = (None, "relu", "gelu", "silu")


@st.composite
def dense_weights(
    draw: st.DrawFn, most: int = 12, dtypes: tuple[torch.dtype, ...] = DTYPES, least: int = 1
) -> torch.Tensor:
    """[M, K] with zeros: any pattern, density 0 to 1; negative, tiny and huge finite values."""
    M, K = draw(st.integers(least, most)), draw(st.integers(least, most))
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    scales = SCALES[str(dtype).removeprefix("torch.")]
    if draw(st.booleans()):
        values = rng.standard_normal((M, K)) * draw(st.sampled_from(scales))
    else:
        values = rng.standard_normal((M, K)) * rng.choice(scales, (M, K))
    if density == 0.0 or 0 in (M, K):
        keep = np.zeros((M, K), dtype=bool)
    else:
        keep = mask(draw(st.sampled_from(PATTERNS)), M, K, density, rng)
    return torch.from_numpy(np.where(keep, values, 0.0)).to(dtype)


def matrices(most: int = 12, dtypes: tuple[torch.dtype, ...] = DTYPES) -> st.SearchStrategy:
    return dense_weights(most, dtypes).map(SparseMatrix.from_dense)


@st.composite
def problems(draw: st.DrawFn, most: int = 5000) -> SpmmProblem:
    """Any problem, from empty to large: planning needs no weight."""
    M, K, N = (draw(st.integers(0, most)) for _ in range(3))
    density = draw(st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 1.0]))
    dtype = st.sampled_from(["float32", "float16", "bfloat16"])
    layout = st.sampled_from(["row", "column"])
    return SpmmProblem(
        M, K, N, int(M * K * density),
        batch=draw(st.sampled_from([0, 1, 1, 1, 3, 32, 100_000])),
        x_dtype=draw(dtype), w_dtype=draw(dtype),
        x_layout=draw(layout), y_layout=draw(layout),
        epilogue=Epilogue(
            draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from(ACTIVATIONS))
        ),
    )  # fmt: skip


@st.composite
def legal_configs(
    draw: st.DrawFn, problem: SpmmProblem, device: Device, family: str, **forced: object
) -> KernelConfig:
    """From the family's own space, the fields that break a law redrawn."""
    space = FAMILIES[family].space(problem, device)
    fields = {name: st.sampled_from(values) for name, values in space.items()}
    fields |= {name: st.just(value) for name, value in forced.items()}
    configs = st.builds(KernelConfig, kernel=st.just(family), **fields)  # type: ignore[arg-type]
    return draw(configs.filter(lambda config: why_not(problem, config, device) is None))
