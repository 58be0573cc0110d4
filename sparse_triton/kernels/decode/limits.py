"""What a decode program may be: its shape, and every reason why a configuration cannot work."""

from __future__ import annotations

from typing import NamedTuple

from sparse_triton.config import KernelConfig, ceil_div, counts_why_not, next_power_of_two
from sparse_triton.device import Device
from sparse_triton.kernels.decode.bitmap_program import MAX_RECORD_BYTES, BitmapShape
from sparse_triton.problem import SpmmProblem

MAX_COLUMNS = 32  # of a problem: above, the weight's bytes no longer decide
MAX_VECTOR = 16
MAX_THREADS = 1024
MAX_NNZ = 2**30
BLOCK_ROWS = (8, 16, 32)
BITMAP_BLOCK_ROWS = (16, 32, 64)
MAX_STAGES = 8
INDEX_BITS = {"gaps4": 4, "gaps8": 8, "columns16": 16}  # of a list's entry
STEP_WORDS = 4  # registers of the values of a step
REGISTERS_BESIDES = 26
STATIC_SHARED_BYTES = 16  # see walk.py: the window's anchor
FIRST_ARCH_WITH_BFLOAT16_PRODUCT = 80
FIRST_ARCH_WITH_BFLOAT16_COMPARE = 90


class WalkShape(NamedTuple):
    """Rows of a program and columns of a thread, powers of two."""

    block_m: int
    vector: int
    Gy: int

    @property
    def threads(self) -> int:
        return self.block_m * self.Gy

    def window_bytes(self, K: int) -> int:
        """Columns of X, and later the partial sums, in one place."""
        return max(ceil_div(2 * K * self.vector, 16) * 16, self.threads * self.vector * 4)


def block_rows(problem: SpmmProblem, config: KernelConfig) -> int:
    return max(BLOCK_ROWS[0], next_power_of_two(ceil_div(problem.M, config.M_blocks)))


def walk_shape(problem: SpmmProblem, config: KernelConfig) -> WalkShape:
    vector = next_power_of_two(ceil_div(problem.N, config.N_blocks))
    return WalkShape(block_rows(problem, config), vector, config.Gy)


def bitmap_shape(problem: SpmmProblem, config: KernelConfig) -> BitmapShape:
    columns = max(8, next_power_of_two(ceil_div(problem.N, config.N_blocks)))
    block_m = max(BITMAP_BLOCK_ROWS[0], block_rows(problem, config))
    return BitmapShape(block_m, columns, config.Gy, config.prefetch)


def decode_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    of_format = _bitmap_why_not if config.format == "bitmap" else _walk_why_not
    return (
        counts_why_not(config, ("sorted",))
        or _problem_why_not(problem, device)
        or _gy_why_not(config)
        or of_format(problem, config, device)
    )


def _problem_why_not(problem: SpmmProblem, device: Device) -> str | None:
    if problem.M == 0 or problem.N == 0 or problem.batch == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if problem.N > MAX_COLUMNS:
        return f"decode takes N up to {MAX_COLUMNS}, got {problem.N}; use kernel='gather'"
    if problem.x_itemsize != 2 or problem.w_dtype == "float32":
        return (
            f"decode takes float16 and bfloat16, got X {problem.x_dtype} and W {problem.w_dtype}; "
            "use kernel='gather'"
        )
    if problem.w_dtype == "bfloat16" and device.arch < FIRST_ARCH_WITH_BFLOAT16_COMPARE:
        return f"bfloat16 weights need sm_90, {device.name} is sm_{device.arch}; use float16"
    if problem.nnz > MAX_NNZ:
        return f"nnz must be at most {MAX_NNZ}, got {problem.nnz}; split the rows"
    return None


def _gy_why_not(config: KernelConfig) -> str | None:
    if config.Gy & (config.Gy - 1):
        return f"Gy must be a power of two, got {config.Gy}"
    return None


def _rows_why_not(problem: SpmmProblem, config: KernelConfig, sizes: tuple[int, ...]) -> str | None:
    block_m = block_rows(problem, config)
    if block_m in sizes:
        return None
    return (
        f"a program takes {', '.join(map(str, sizes))} rows, M={problem.M} in "
        f"M_blocks={config.M_blocks} are {block_m}; use M_blocks={ceil_div(problem.M, 32)}"
    )


def _walk_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    shape = walk_shape(problem, config)
    if config.format == "columns16" and problem.K > 2**16:
        return f'format="columns16" holds K up to 65536, got {problem.K}; use "gaps4"'
    reason = _rows_why_not(problem, config, BLOCK_ROWS)
    if reason:
        return reason
    if not 32 <= shape.threads <= MAX_THREADS:
        return (
            f"Gy * block_m = {config.Gy} * {shape.block_m} threads must lie in 32 ... "
            f"{MAX_THREADS}; change Gy or M_blocks={config.M_blocks}"
        )
    if shape.vector > min(MAX_VECTOR, shape.Gy):
        return (
            f"N={problem.N} in N_blocks={config.N_blocks} are {shape.vector} columns a thread, at "
            f"most {min(MAX_VECTOR, shape.Gy)} (Gy={shape.Gy}) go; use more N_blocks or a larger Gy"
        )
    held = 8 * max(1, shape.vector // 2) + shape.vector
    return _registers_why_not(config, held, shape.threads, device) or _shared_why_not(
        shape.window_bytes(problem.K), device, f"{shape.vector} columns of K={problem.K}",
        "use more N_blocks",
    )  # fmt: skip


def _bitmap_why_not(problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
    shape = bitmap_shape(problem, config)
    if problem.x_dtype != problem.w_dtype:
        return (
            f"tensor cores multiply equal dtypes, X is {problem.x_dtype}, W {problem.w_dtype}; "
            'use format="gaps4"'
        )
    if device.arch < FIRST_ARCH_WITH_BFLOAT16_PRODUCT:
        return f'format="bitmap" needs sm_80, {device.name} is sm_{device.arch}; use "gaps4"'
    reason = _rows_why_not(problem, config, BITMAP_BLOCK_ROWS)
    if reason:
        return reason
    if shape.threads > MAX_THREADS:
        return (
            f"Gy * units of rows = {config.Gy} * {shape.units} warps must be at most "
            f"{MAX_THREADS // 32}; change Gy or M_blocks={config.M_blocks}"
        )
    if not 2 <= shape.stages <= MAX_STAGES:
        return f"prefetch must lie in 2 ... {MAX_STAGES}, got {config.prefetch}"
    return _shared_why_not(
        shape.window_bytes(MAX_RECORD_BYTES), device, f"{shape.stages} records of {shape.warps} "
        "warps", "use a smaller prefetch or Gy",
    )  # fmt: skip


def _registers_why_not(config: KernelConfig, held: int, threads: int, device: Device) -> str | None:
    words = STEP_WORDS + INDEX_BITS[config.format] // 4
    needed = config.prefetch * words + held + REGISTERS_BESIDES
    budget = min(255, device.registers // threads)
    if needed <= budget:
        return None
    return (
        f"prefetch={config.prefetch} needs about {needed} registers a thread, {threads} threads "
        f"leave {budget}; use a smaller prefetch or Gy"
    )


def _shared_why_not(window: int, device: Device, what: str, remedy: str) -> str | None:
    needed = window + STATIC_SHARED_BYTES
    if needed <= device.shared_bytes:
        return None
    return (
        f"{what} need {needed} bytes of shared memory, {device.name} has {device.shared_bytes}; "
        f"{remedy}"
    )
