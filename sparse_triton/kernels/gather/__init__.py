"""Family ``gather``: the pattern is data. Good at few columns and big weights; any N compiles once.

``limits`` (shape and legality) -> ``pack`` (the weight as lists of pairs) -> ``walk`` (the inner
loop in PTX) -> ``kernel`` (the Triton kernel around it).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_triton.config import KernelConfig, RowBlocks, ceil_div, next_power_of_two, powers_of_two
from sparse_triton.device import Device
from sparse_triton.kernel import Kernel
from sparse_triton.kernels.family import Family, Plan, Space
from sparse_triton.kernels.gather.limits import gather_why_not
from sparse_triton.kernels.gather.pack import packed_for
from sparse_triton.partition import NO_ROW
from sparse_triton.problem import SpmmProblem

PROGRAM_THREADS = 256
LONG_ROW = 150  # entries, of a mean row
LISTS_OF_LONG_ROWS = 16  # that one program has room for: a row stays within a program


class Gather(Family):
    name = "gather"
    device_kind = "cuda"

    def why_not(self, problem: SpmmProblem, config: KernelConfig, device: Device) -> str | None:
        return gather_why_not(problem, config, device)

    def space(self, problem: SpmmProblem, device: Device) -> Space:
        widest = 16 // problem.x_itemsize if problem.x_layout == "row" else 1
        return {
            "M_blocks": powers_of_two(1, next_power_of_two(problem.M)),
            "N_blocks": powers_of_two(1, max(1, ceil_div(problem.N, 8))),
            "Gy": (1, 2, 4, 8),
            "vector": tuple(v for v in (1, 2, 4, 8) if v <= widest and problem.N % v == 0),
            "row_blocks": ("sorted", "even_nnz", "split"),
            "spare": (0, 25, 50),
            "prefetch": (4, 8, 16),
            "repeat": (1, 2, 4) if problem.x_layout == "row" else (1,),
            "fastest": ("rows", "columns"),
        }

    def default_config(self, problem: SpmmProblem, device: Device) -> KernelConfig:
        """Fitted to measurements (``benchmarks/NOTES.md``): many loads in flight in few threads.
        Two of the widest loads a pair and lane where the tile is wide enough, as many pairs ahead
        as fill 64 registers, and lists so short that the device is filled once."""
        vector = _vector(self.space(problem, device)["vector"], problem)
        lanes, repeat = _tile(ceil_div(problem.N, vector), problem.x_layout == "row")
        N_blocks = max(1, ceil_div(problem.N, lanes * vector * repeat))
        threads = problem.M * lanes * N_blocks * problem.batch
        Gy = _lists_a_row(problem, threads, device)
        way, spare, half = _how_to_split(problem, Gy, threads * Gy / _full(device))
        block_m = max(2, PROGRAM_THREADS // (Gy * lanes))
        if way == "split" and problem.nnz >= LONG_ROW * problem.M:
            block_m = max(block_m, LISTS_OF_LONG_ROWS // Gy)
        while block_m > 1 and block_m >= 2 * problem.M:
            block_m //= 2
        while Gy * block_m * lanes < 32:
            Gy *= 2
        words = max(1, vector * problem.x_itemsize // 4)
        pairs = next_power_of_two(ceil_div(problem.nnz, max(1, problem.M * Gy)))
        ahead = 16 if vector == 1 else 8
        prefetch = min(ahead, 64 // (words * repeat), pairs)
        config = KernelConfig(
            "gather",
            M_blocks=max(1, ceil_div(problem.M, block_m)),
            N_blocks=N_blocks,
            Gy=Gy,
            vector=vector,
            repeat=repeat,
            row_blocks=way,
            spare=spare,
            prefetch=max(4, prefetch // 2 if half else prefetch),
        )
        while config.prefetch > 2 and gather_why_not(problem, config, device) is not None:
            config = replace(config, prefetch=config.prefetch // 2)  # wide programs: few registers
        return config

    def build(self, plan: Plan) -> Kernel:
        from sparse_triton.build import compile_kernel
        from sparse_triton.kernels.gather.kernel import gather_source

        return compile_kernel(gather_source(plan), plan.device.arch)

    def reference(self, plan: Plan, X: NDArray[np.float32]) -> NDArray[np.float32]:
        packed = packed_for(plan)
        Y = np.full((plan.problem.M, X.shape[1]), np.nan, dtype=np.float32)
        for runs, rows in zip(packed.runs, packed.rows, strict=True):
            for place in np.flatnonzero(rows[:, 0] != NO_ROW):
                row, further = rows[place]
                lists = runs[:, place : place + further + 1].swapaxes(0, 1).reshape(-1, 2)
                partials = [_walk(packed.pairs[s : s + n], X) for s, n in lists]
                Y[row] = np.sum(partials, axis=0, dtype=np.float32)
        return Y


def _vector(widths: tuple[int, ...], problem: SpmmProblem) -> int:
    """The widest load; half of it where the tiles then cover an eighth less."""
    adjacent = problem.x_layout == "row"

    def covered(vector: int) -> int:
        lanes, repeat = _tile(ceil_div(problem.N, vector), adjacent)
        return ceil_div(problem.N, lanes * vector * repeat) * lanes * vector * repeat

    widest = max(widths)
    narrower = widest // 2 in widths and 8 * covered(widest // 2) <= 7 * covered(widest)
    return widest // 2 if narrower else widest


def _tile(loads: int, adjacent: bool) -> tuple[int, int]:
    """Lanes of a row and loads of X each makes for a pair: 16 or 32 lanes with two loads, whichever
    leaves fewer beyond N; one load where a row has fewer than 32."""
    if loads < 32 or not adjacent:
        return max(4, min(32, next_power_of_two(loads))), 1
    return min((32, 16), key=lambda lanes: (ceil_div(loads, 2 * lanes) * lanes, -lanes)), 2


def _full(device: Device) -> int:
    """Threads that fill the device at 128 registers each."""
    return 512 * device.cores


def _lists_a_row(problem: SpmmProblem, threads: int, device: Device) -> int:
    """Lists until the device is full once, while they keep 6 pairs; none longer than 52 pairs."""
    per_row = problem.nnz / max(1, problem.M)
    Gy = 1
    while Gy < 8 and per_row / Gy >= 12:
        if threads * Gy >= 0.6 * _full(device) and per_row / Gy <= 52:
            break
        Gy *= 2
    return Gy


def _how_to_split(problem: SpmmProblem, Gy: int, filled: float) -> tuple[RowBlocks, int, bool]:
    """(row_blocks, spare, whether registers are halved so that spare blocks run at once).

    The longest row decides when few programs run. Short rows gain less than adding up costs, and
    where the device is filled many times over others fill in.
    """
    if problem.nnz < 8 * problem.M or filled >= 4:
        return "even_nnz", 0, False
    if Gy == 1 and filled >= 0.8:
        return "split", 50, True
    return "split", 25 if filled < 0.8 else 0, False


def _walk(pairs: NDArray[np.int32], X: NDArray[np.float32]) -> NDArray[np.float32]:
    acc = np.zeros(X.shape[1], dtype=np.float32)
    for k, w in zip(pairs[:, 0], pairs[:, 1].view(np.float32), strict=True):
        acc += w * X[k]
    return acc
