"""The pairs kernel for sm_90: products that overlap, registers that change hands, no spills."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sparse_triton.build import TritonKernel, resources, sass
from sparse_triton.device import Device
from sparse_triton.kernels.pairs.estimate import WAYS, config_of
from sparse_triton.kernels.pairs.limits import FETCHING, MULTIPLYING, Tile, tile_of
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue
from tests.compile.machine_code import written_while_read
from tests.support import problem_for, weight

H100 = replace(Device.virtual_cuda(90), shared_bytes=227 * 1024)
W = weight("random", 256, 96, 0.1)


def code_of(tile: Tile, N: int) -> str:
    epilogue = Epilogue(bias=True, activation="relu") if N == 49 else Epilogue()
    problem = problem_for(W, N, batch=32, epilogue=epilogue)
    config = config_of(problem, tile)
    assert tile_of(problem, config) == tile
    plan = plan_spmm(problem, config, W.csr, H100)
    kernel = plan.family.build(plan)
    assert isinstance(kernel, TritonKernel)
    assert resources(kernel).spill_bytes == 0
    return sass(kernel)


@pytest.mark.parametrize("tile", [way.tile for way in WAYS], ids=str)
@pytest.mark.parametrize("N", [49, 256])
def test_products_overlap(N: int, tile: Tile) -> None:
    """Eight sparse products for each turn through the loop's two sets of registers, with one wait
    for each set: where ptxas doubts a register it waits for each product."""
    code = code_of(tile, N)
    for kind in ("16.F32.TF32", "32.F32.BF16"):
        assert len(re.findall(rf"HGMMA.SP.64x{tile.block_n}x{kind}", code)) == 4
    assert len(re.findall(r"WARPGROUP\.DEPBAR", code)) == 3
    assert not written_while_read(code)


def test_roles() -> None:
    """Registers change hands, warps that fetch end in the assembly, and nobody waits for all
    others but once, when the barriers have been made."""
    code = code_of(Tile(2, 64), 256)
    taken = re.search(r"USETMAXREG\.TRY_ALLOC\S+ UP0, (0x\w+)", code)
    given = re.search(r"USETMAXREG\.DEALLOC\S+ (0x\w+)", code)
    assert taken and int(taken[1], 16) == MULTIPLYING
    assert given and int(given[1], 16) == FETCHING
    multiplying, fetching = code[: given.start()], code[given.start() :]
    assert "HGMMA" not in fetching and "LDG.E" in fetching and "EXIT" in fetching
    assert len(re.findall(r"UBLKCP", multiplying)) == 0 < len(re.findall(r"UBLKCP", fetching))
    assert len(re.findall(r"BAR\.SYNC", code)) == 1


def test_the_check_sees_an_earlier_write() -> None:
    loop = "IADD3 R9, R1 ;", "HGMMA.SP R24, R8, gdesc[UR4], R24, R2, gsb0 ;", "MOV R3, R4 ;"
    ends = "WARPGROUP.DEPBAR.LE gsb0, 0x1 ;", "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;"

    def code(end: str) -> str:
        lines = [f"  /*{i:04x}*/  {text}" for i, text in enumerate((*loop, end, "BRA `(.L_x_0) ;"))]
        return "\n".join([".L_x_0:", *lines])

    assert written_while_read(code(ends[0])) == ["IADD3 R9, R1"]
    assert not written_while_read(code(ends[1]))
