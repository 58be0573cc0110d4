"""The pairs kernel for sm_90: sparse products that overlap, no spills."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sparse_triton.build import TritonKernel, resources, sass
from sparse_triton.device import Device
from sparse_triton.kernels.pairs.estimate import WAYS, config_of
from sparse_triton.kernels.pairs.limits import Tile, tile_of
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue
from tests.support import problem_for, weight

H100 = replace(Device.virtual_cuda(90), shared_bytes=227 * 1024)
W = weight("random", 256, 96, 0.1)
MOST_SPILLED = 64  # bytes a thread: registers are full to the last


@pytest.mark.parametrize("tile", [way.tile for way in WAYS], ids=str)
@pytest.mark.parametrize("N", [49, 256])
def test_products_overlap(N: int, tile: Tile) -> None:
    """Eight sparse products for 64 rows in the loop's two steps, with one wait for each step: where
    ptxas doubts a register it waits for each product."""
    epilogue = Epilogue(bias=True, activation="relu") if N == 49 else Epilogue()
    problem = problem_for(W, N, batch=32, epilogue=epilogue)
    config = config_of(problem, tile)
    assert tile_of(problem, config) == tile
    plan = plan_spmm(problem, config, W.csr, H100)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    assert resources(kernel).spill_bytes <= MOST_SPILLED
    code = sass(kernel)
    for kind in ("16.F32.TF32", "32.F32.BF16"):
        assert len(re.findall(rf"HGMMA.SP.64x{tile.block_n}x{kind}", code)) == 4 * tile.stack
    assert len(re.findall(r"WARPGROUP\.DEPBAR", code)) == 3
    assert not written_while_read(code)


def written_while_read(code: str) -> list[str]:
    """Instructions of the loop that write a register which products in flight read: nothing guards
    the values and selectors of a product until a wait has ended its group."""
    read, flying, found = set[int](), list[set[int]](), []
    for line in 2 * loop_of(code):
        product = re.match(r"HGMMA\S+ R\d+, R(\d+), gdesc\[\w+\], R\d+, R(\d+)", line)
        wait = re.match(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)", line)
        if product:
            read |= {int(product[1]) + i for i in range(4)} | {int(product[2])}
            if "gsb0" in line:
                flying.append(read)
                read = set()
        elif wait:
            flying = flying[len(flying) - int(wait[1]) :] if int(wait[1]) else []
        elif written(line) & read.union(*flying):
            found.append(line)
    return found


def loop_of(code: str) -> list[str]:
    """The instructions between the label that the first branch after the products goes to and it,
    without predicates."""
    lines = re.findall(
        r"^(?:(\.L_x_\d+):|\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?(.*?) ?;)", code, re.M
    )
    last = max(i for i, (_, text) in enumerate(lines) if text.startswith("HGMMA"))
    back = next(i for i in range(last, len(lines)) if lines[i][1].startswith("BRA"))
    label = re.search(r"\.L_x_\d+", lines[back][1])
    assert label is not None
    top = [name for name, _ in lines].index(label[0])
    return [text for _, text in lines[top:back]]


def written(line: str) -> set[int]:
    """Registers that an instruction writes."""
    out = re.match(r"(?!ST|RED)(\S+) (?:P\d, )?R(\d+)\b", line)
    if out is None:
        return set()
    wide = 4 if ".128" in out[1] else 2 if ".64" in out[1] or ".WIDE" in out[1] else 1
    return {int(out[2]) + i for i in range(wide)}


def test_the_check_sees_an_earlier_write() -> None:
    loop = "IADD3 R9, R1 ;", "HGMMA.SP R24, R8, gdesc[UR4], R24, R2, gsb0 ;", "MOV R3, R4 ;"
    ends = "WARPGROUP.DEPBAR.LE gsb0, 0x1 ;", "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;"

    def code(end: str) -> str:
        lines = [f"  /*{i:04x}*/  {text}" for i, text in enumerate((*loop, end, "BRA `(.L_x_0) ;"))]
        return "\n".join([".L_x_0:", *lines])

    assert written_while_read(code(ends[0])) == ["IADD3 R9, R1"]
    assert not written_while_read(code(ends[1]))
