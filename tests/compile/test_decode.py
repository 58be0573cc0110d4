"""The decode kernels compile for every dtype, layout, format and architecture, without spills."""

from __future__ import annotations

import pytest
import torch

from sparse_triton import SparseMatrix
from sparse_triton.build import TritonKernel, resources, sass
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue
from tests.support import dense_weight, problem_for

ARCHS = (80, 90, 100)
SHARED = 99 * 1024
WALK = {"M_blocks": 4, "Gy": 16, "row_blocks": "sorted"}
BITMAP = WALK | {"format": "bitmap", "Gy": 4, "prefetch": 3}


def built(config: KernelConfig, arch: int, N: int, dtype: str, **options: object) -> TritonKernel:
    W = SparseMatrix.from_dense(dense_weight("ragged", 128, 1024, 0.3).to(getattr(torch, dtype)))
    device = Device("cuda", f"sm_{arch}", arch, cores=132, shared_bytes=SHARED)
    plan = plan_spmm(problem_for(W, N, x_dtype=dtype, **options), config, W.csr, device)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    return kernel


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    "fields",
    [
        WALK | {"prefetch": 4},
        WALK | {"format": "gaps8"},
        WALK | {"format": "columns16"},
        BITMAP,
    ],
)
@pytest.mark.parametrize("N", [1, 8])
def test_no_spills(N: int, fields: dict[str, object], arch: int) -> None:
    config = KernelConfig("decode", **{"prefetch": 2} | fields)  # type: ignore[arg-type]
    kernel = built(config, arch, N, "float16")
    assert resources(kernel).spill_bytes == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layouts", ["row-row", "column-column"])
@pytest.mark.parametrize("fields", [WALK | {"prefetch": 2}, BITMAP])
@pytest.mark.parametrize("N", [3, 32])
def test_dtypes_layouts_epilogues(
    N: int, fields: dict[str, object], layouts: str, dtype: str
) -> None:
    x_layout, y_layout = layouts.split("-")
    config = KernelConfig("decode", N_blocks=-(-N // 8), **fields)  # type: ignore[arg-type]
    epilogue = Epilogue(bias=True, residual=y_layout == "row", activation="gelu")
    kernel = built(
        config, 90, N, dtype, x_layout=x_layout, y_layout=y_layout, epilogue=epilogue, batch=2
    )
    assert resources(kernel).spill_bytes == 0


def test_instructions_of_a_step() -> None:
    """Per step of eight entries: eight gathers, eight products, eight sums of gaps, no more."""
    code = sass(built(KernelConfig("decode", prefetch=4, **WALK), 90, 1, "float16"))  # type: ignore[arg-type]
    steps = 4
    assert code.count("LDS.U16") == code.count("FFMA") == code.count("IDP.4A") == 8 * steps
    assert code.count("LDG.E.NA.128.CONSTANT") == 2 * steps  # first steps, and the loop's


def test_instructions_of_a_record() -> None:
    """32 elements of a lane, four tiles, each multiplied by the columns in steps of eight."""
    code = sass(built(KernelConfig("decode", **BITMAP), 90, 16, "float16"))  # type: ignore[arg-type]
    assert code.count("LDS.U16") == 32
    assert code.count("HMMA.16816.F32") == 4 * 2
    assert code.count("SHFL.UP") == 2 * 5
