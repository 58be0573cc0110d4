"""The model behind the defaults of convolutions: it ranks as measurements did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels.conv.model import gather_us
from sparse_triton.problem import ConvProblem, Pool

H100 = replace(Device.virtual_cuda(90), shared_bytes=227 * 1024)
PAD = (1, 1, 1, 1)
POOL = Pool("max", (2, 2), (2, 2))
VGG_28 = ConvProblem(1, 512, 28, 28, 512, 3, 3, 235_930, padding=PAD, pool=POOL)
RESNET_2 = ConvProblem(32, 128, 28, 28, 128, 3, 3, 14_745, padding=PAD)


def gather(M_blocks: int, N_blocks: int, K_blocks: int, **fields: Any) -> KernelConfig:
    return KernelConfig(
        "gather", M_blocks, N_blocks, 1, K_blocks, row_blocks="even_nnz", prefetch=4, **fields
    )


def test_more_non_zeros_take_longer() -> None:
    config = gather(16, 7, 2, stack=2, repeat=4, window_kb=208)
    assert gather_us(VGG_28, config, H100) < gather_us(
        replace(VGG_28, nnz=2 * VGG_28.nnz), config, H100
    )


def test_programs_that_do_not_fit_beside_each_other_take_two_waves() -> None:
    """128 programs, each alone on its multiprocessor: in clusters of 2 they took 49 us, of 4 90."""
    two = gather_us(VGG_28, gather(64, 2, 2, stack=2, repeat=8, window_kb=208), H100)
    four = gather_us(VGG_28, gather(64, 2, 4, stack=4, repeat=8, window_kb=208), H100)
    assert four > 1.3 * two


def test_a_larger_window_is_worth_its_shared_memory() -> None:
    """Measured: 81.8 (104 KB, 8 points a lane) against 110.4 us (48 KB, 4)."""
    wide = KernelConfig(
        "gather", 16, 4, stack=8, repeat=8, row_blocks="even_nnz", prefetch=8, window_kb=104
    )
    narrow = KernelConfig("gather", 32, 4, stack=4, repeat=4, row_blocks="even_nnz", prefetch=8)
    assert gather_us(RESNET_2, wide, H100) < 0.9 * gather_us(RESNET_2, narrow, H100)
