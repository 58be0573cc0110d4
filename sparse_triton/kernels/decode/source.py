"""What the kernels of family ``decode`` have in common: operands, strides, epilogue, launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparse_triton.build import KernelSource
from sparse_triton.config import grid_of
from sparse_triton.kernels.columns import Asm, has_dependent_launch
from sparse_triton.kernels.epilogue import epilogue_constants
from sparse_triton.kernels.family import Plan


@dataclass(frozen=True, eq=False)
class Program:
    """What sets a kernel apart. ``arrays`` end with ``rows`` [blocks, block_m]; ``tiles``: of
    columns; ``sizes``: scalars besides N and the strides."""

    fn: Any
    constants: Mapping[str, Any]
    asm: Asm
    arrays: Mapping[str, NDArray[Any]]
    tiles: int
    warps: int
    window_bytes: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def source_of(plan: Plan, program: Program) -> KernelSource:
    problem, config = plan.problem, plan.config
    blocks = len(program.arrays["rows"])
    return KernelSource(
        fn=program.fn,
        constants={
            **program.constants,
            "COLUMNS_FASTEST": config.fastest == "columns",
            "ASM": program.asm.text,
            "CONSTRAINTS": program.asm.constraints,
            **epilogue_constants(problem.epilogue),
        },
        x_dtype=problem.x_dtype,
        arrays=program.arrays,
        scalars={"N": problem.N, **problem.strides, **program.sizes},
        grid=grid_of(config, blocks, program.tiles, problem.batch),
        num_warps=program.warps,
        options={"launch_pdl": has_dependent_launch(plan.device.arch), **program.options},
        window_bytes=program.window_bytes,
    )
