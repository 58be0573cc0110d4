"""What instruction fetch costs: straight-line code in several versions, run once by each program.

A family whose weight is its code pays for every line of it (128 bytes, 8 instructions). How much
depends on who else runs the same line at about the same time: the warps of a scheduler, the two
multiprocessors of a pair, which share a cache, and all others.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from benchmarks.report import markdown
from sparse_triton.build import KernelSource, compile_kernel
from sparse_triton.device import Device
from sparse_triton.kernel import Run
from sparse_triton.kernels.columns import UID, Asm

Row = dict[str, Any]
LINE = 8  # instructions of 16 bytes
SUMS, FACTORS = 64, 8  # registers of the code
VERSIONS = {3700: 8, 1850: 8, 7400: 4}  # by the products of one: 60, 30 and 120 KB
LANES = (128, 512)
FLUSH = 8000  # products of each of 8 versions that push all others out of the caches
REPEATS = 10
# Which version a program runs; neighbouring programs are on the two multiprocessors of a pair.
PLACEMENTS: dict[str, Callable[[int, int, int], int]] = {
    "one program": lambda i, programs, versions: 0,
    "all the same": lambda i, programs, versions: 0,
    "in equal parts": lambda i, programs, versions: i * versions // programs,
    "one a pair": lambda i, programs, versions: i // 2 % versions,
    "two in a pair": lambda i, programs, versions: i % versions,
}


@triton.jit
def straight(  # type: ignore[no-untyped-def]
    x, y, bias, residual, version, LANES: tl.constexpr, ASM: tl.constexpr,
    CONSTRAINTS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y[program] = cycles that the program took for its version of the code."""
    i = tl.program_id(0)
    thread = tl.arange(0, LANES)
    chosen = tl.load(version + i) + thread * 0
    cycles = tl.inline_asm_elementwise(
        ASM, CONSTRAINTS, [chosen, thread], dtype=tl.float32, is_pure=False, pack=1
    )
    tl.store(y + i, tl.max(cycles))


def code(products: int, versions: int) -> Asm:
    """Versions of as many products each. Their sums are looked at, so that nobody drops them."""
    draw = random.Random(0)
    lines = [
        ".reg .b64 before, after;",
        ".reg .pred p;",
        f".reg .f32 a<{SUMS}>, x<{FACTORS}>, s;",
        *(f"mov.f32 a{i}, 0f00000000;" for i in range(SUMS)),
        *(f"cvt.rn.f32.u32 x{i}, $2;" for i in range(FACTORS)),
        *(f"add.f32 x{i}, x{i}, 0f{_one(i):08X};" for i in range(FACTORS)),
        "bar.sync 0;",
        "mov.u64 before, %clock64;",
        f"ALL{UID}: .branchtargets {', '.join(f'V{v}{UID}' for v in range(versions))};",
        f"brx.idx $1, ALL{UID};",
    ]
    for v in range(versions):
        lines.append(f"V{v}{UID}:")
        for i in range(products):
            a, x = i % SUMS, (i + i // SUMS) % FACTORS
            weight = _one(draw.randrange(1, 2**22))
            lines.append(f"fma.rn.f32 a{a}, x{x}, 0f{weight:08X}, a{a};")
        lines.append(f"bra.uni END{UID};")
    lines += [
        f"END{UID}:",
        "bar.sync 0;",
        "mov.u64 after, %clock64;",
        "mov.f32 s, a0;",
        *(f"add.f32 s, s, a{i};" for i in range(1, SUMS)),
        "sub.u64 after, after, before;",
        "cvt.rn.f32.u64 $0, after;",
        f"setp.eq.f32 p, s, 0f{_one(1):08X};",
        "@p mov.f32 $0, s;",
    ]
    return Asm("{\n" + "\n".join(lines) + "\n}", "=f,r,r")


def _one(step: int) -> int:
    """The bits of 1 + step * 2**-23."""
    return 0x3F800000 + step


def source(products: int, versions: int, lanes: int, chosen: list[int]) -> KernelSource:
    """The kernel of one program for each version chosen."""
    asm = code(products, versions)
    return KernelSource(
        fn=straight,
        constants={
            "LANES": lanes, "ASM": asm.text, "CONSTRAINTS": asm.constraints,
            "HAS_BIAS": False, "HAS_RESIDUAL": False,
        },
        x_dtype="float32",
        arrays={"version": np.array(chosen, np.int32)},
        scalars={},
        grid=(len(chosen), 1, 1),
        num_warps=lanes // 32,
    )  # fmt: skip


def run(device: torch.device) -> list[Row]:
    """Cycles a line, of the slowest program: right after the same kernel, and after others."""
    facts = Device.of(device)

    def bound(products: int, versions: int, lanes: int, chosen: list[int]) -> Run:
        return compile_kernel(source(products, versions, lanes, chosen), facts.arch).bind(device)

    flush = bound(FLUSH, 8, 128, [i % 8 for i in range(facts.cores)])
    rows = []
    for products, versions in VERSIONS.items():
        for lanes in LANES:
            for name, version in PLACEMENTS.items():
                programs = 1 if name == "one program" else facts.cores
                chosen = [version(i, programs, versions) for i in range(programs)]
                kernel = bound(products, versions, lanes, chosen)
                lines = products / LINE
                rows.append({
                    "kb": round(products * 16 / 1000), "lanes": lanes, "placement": name,
                    "warm": round(cycles(kernel, programs, device, None) / lines, 1),
                    "cold": round(cycles(kernel, programs, device, flush) / lines, 1),
                })  # fmt: skip
    return rows


def cycles(kernel: Run, programs: int, device: torch.device, before: Run | None) -> float:
    X, Y = torch.empty(1, device=device), torch.empty(1024, device=device)
    samples = []
    for _ in range(REPEATS):
        if before is not None:
            before(X, Y, None, None)
        kernel(X, Y, None, None)
        samples.append(float(Y[:programs].max()))
    return statistics.median(samples)


def table(rows: list[Row]) -> str:
    head = ["code, KB", "lanes", "versions", "cycles a line, again", "after others"]
    fields = ("kb", "lanes", "placement", "warm", "cold")
    return markdown(head, [[str(row[f]) for f in fields] for row in rows])
