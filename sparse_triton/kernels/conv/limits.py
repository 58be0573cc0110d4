"""Every reason why a configuration cannot run a convolution, for both families."""

from __future__ import annotations

from sparse_triton.config import KernelConfig, counts_why_not
from sparse_triton.device import Device
from sparse_triton.kernels.conv.shape import Shape, gather_shape, unrolled_shape
from sparse_triton.kernels.conv.tile import ANCHOR_BYTES
from sparse_triton.kernels.exchange import cluster_why_not
from sparse_triton.kernels.gather.limits import MAX_PAIRS
from sparse_triton.kernels.unrolled.limits import MAX_NNZ, SCHEDULERS, WARP
from sparse_triton.problem import ConvProblem

MAX_THREADS = 1024
MAX_CHUNKS = 64
MAX_STAGING = 128  # of one thread and chunk: they are written out
REGISTERS_BESIDES = 26


def gather_why_not(problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
    reason = counts_why_not(config, ("sorted", "even_nnz")) or _problem_why_not(problem, config)
    reason = reason or cluster_why_not(config, device)
    if reason is not None:
        return reason
    if problem.nnz > MAX_PAIRS:
        return f"nnz={problem.nnz} needs 64-bit pair numbers, the limit is {MAX_PAIRS}"
    for name in ("Gy", "prefetch"):
        value = getattr(config, name)
        if value & (value - 1) or (name == "prefetch" and value < 2):
            return f"{name} must be a power of two (prefetch at least 2), got {value}"
    shape = gather_shape(problem, config)
    if config.stack & (config.stack - 1):
        return f"stack must be a power of two, got {config.stack}"
    if shape.block_m % config.K_blocks:
        return (
            f"K_blocks={config.K_blocks} programs finish a share of block_m={shape.block_m} rows "
            f"each; use K_blocks <= {shape.block_m} or fewer M_blocks than {config.M_blocks}"
        )
    registers = shape.sums + config.prefetch * (2 + shape.repeat) + REGISTERS_BESIDES
    registers += shape.staging if shape.ahead else 0
    return _shape_why_not(shape, config, device, registers)


def unrolled_why_not(problem: ConvProblem, config: KernelConfig, device: Device) -> str | None:
    reason = counts_why_not(config, ("even_rows", "even_nnz")) or _problem_why_not(problem, config)
    reason = reason or cluster_why_not(config, device)
    if reason is not None:
        return reason
    if problem.nnz > MAX_NNZ:
        return (
            f"nnz={problem.nnz} non-zeros would be that many instructions, the limit is {MAX_NNZ}; "
            "use kernel='gather'"
        )
    if config.Gy & (config.Gy - 1):
        return f"Gy must be a power of two, got {config.Gy}"
    reason = _starts_why_not(problem, config)
    if reason is not None:
        return reason
    if config.stack != 1:
        return f"stack must be 1: a body is for all rows of its block, got {config.stack}"
    shape = unrolled_shape(problem, config)
    registers = shape.sums + shape.repeat * (config.prefetch + 1) + REGISTERS_BESIDES
    registers += shape.staging if shape.ahead else 0
    return _shape_why_not(shape, config, device, registers)


def _starts_why_not(problem: ConvProblem, config: KernelConfig) -> str | None:
    starts = config.starts
    if starts & (starts - 1):
        return f"starts must be a power of two, got {starts}"
    if starts > 1 and config.Gy > 1:
        return f"starts={starts} sends all warps round one body, which wants Gy=1, got {config.Gy}"
    lanes = unrolled_shape(problem, config).lanes
    if starts > 1 and lanes < starts * SCHEDULERS * WARP:
        return (
            f"starts={starts} wants as many warps on each of {SCHEDULERS} schedulers: "
            f"{starts * SCHEDULERS * WARP} lanes, got {lanes}; use fewer N_blocks or starts"
        )
    return None


def _problem_why_not(problem: ConvProblem, config: KernelConfig) -> str | None:
    if min(problem.M, problem.batch, *problem.y_size) == 0 or problem.nnz == 0:
        return "nothing to multiply; use kernel='dense'"
    if config.vector != 1:
        return f"vector must be 1: shared memory is read by the element, got {config.vector}"
    if config.repeat & (config.repeat - 1):
        return f"repeat must be a power of two, got {config.repeat}"
    if problem.C * problem.H * problem.W >= 2**31 or problem.M * problem.N >= 2**31:
        return "an image of 2**31 elements needs 64-bit offsets; use kernel='dense'"
    return None


def _shape_why_not(
    shape: Shape, config: KernelConfig, device: Device, registers: int
) -> str | None:
    threads, tile = shape.threads, shape.tile
    if threads % 32 or threads > MAX_THREADS or threads & (threads - 1):
        return (
            f"{shape.row_groups} row groups * {shape.lanes} lanes = {threads} threads must be a "
            f"power of two in 32 ... {MAX_THREADS}; change M_blocks={config.M_blocks}, "
            f"N_blocks={config.N_blocks}, repeat={config.repeat} or Gy={config.Gy}"
        )
    if shape.shared_bytes + ANCHOR_BYTES > device.shared_bytes:
        return (
            f"tile ({tile.bytes} bytes) and partials ({shape.exchange_bytes}) exceed the "
            f"{device.shared_bytes} bytes of shared memory; use more M_blocks or N_blocks, or a "
            f"smaller Gy or window_kb than {config.window_kb}"
        )
    if tile.chunks > MAX_CHUNKS:
        return (
            f"{tile.chunks} chunks of {tile.channels} channels, the limit is {MAX_CHUNKS}; use "
            f"more N_blocks than {config.N_blocks} or K_blocks than {config.K_blocks}"
        )
    staging = shape.staging
    if staging > MAX_STAGING:
        return (
            f"a thread would stage {staging} elements, the limit is {MAX_STAGING}; use more "
            f"threads than {threads}"
        )
    budget = min(255, device.registers // threads)
    if registers > budget:
        return (
            f"{shape.sums} sums and prefetch={config.prefetch} need about {registers} registers, "
            f"{threads} threads leave {budget}; use more M_blocks, or a smaller prefetch or repeat"
        )
    return None
