"""Partial sums meet: of the Gy groups of a program and of the programs of a cluster, in PTX.

Every part stores its partial where the sum is finished, in that program's own shared memory, which
the other programs of the cluster reach too (sm_90 on); after one barrier each sum is added up, in
part order, by the threads that hold it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device

FIRST_ARCH_WITH_CLUSTERS = 90
MAX_CLUSTER = 16  # more than 8 need a device that allows it: sm_90 and sm_100 do


def cluster_why_not(config: KernelConfig, device: Device) -> str | None:
    """What a cluster of ``K_blocks`` programs may be."""
    K_blocks = config.K_blocks
    if K_blocks == 1:
        return None
    if device.arch < FIRST_ARCH_WITH_CLUSTERS:
        return (
            f"K_blocks={K_blocks} needs clusters (sm_{FIRST_ARCH_WITH_CLUSTERS}), the device is "
            f"sm_{device.arch}; use K_blocks=1"
        )
    if K_blocks & (K_blocks - 1) or K_blocks > MAX_CLUSTER:
        return f"K_blocks must be a power of two up to {MAX_CLUSTER}, got {K_blocks}"
    return None


def cluster_sizes(device: Device) -> tuple[int, ...]:
    """Values of ``K_blocks`` worth a search."""
    return (1, 2, 4, 8) if device.arch >= FIRST_ARCH_WITH_CLUSTERS else (1,)


def begin(K_blocks: int) -> list[str]:
    """Tell the cluster that this program has started; nothing waits here."""
    return ["barrier.cluster.arrive.relaxed;"] if K_blocks > 1 else []


def before_first_store(K_blocks: int) -> list[str]:
    """Every program of the cluster has started: its shared memory may be written."""
    return ["barrier.cluster.wait;"] if K_blocks > 1 else []


def barrier(K_blocks: int) -> list[str]:
    """All that was stored before it can be read after it, by every part."""
    if K_blocks == 1:
        return ["bar.sync 0;"]
    return ["barrier.cluster.arrive.release;", "barrier.cluster.wait.acquire;"]


def of_program(address: str, here: str, rank: str | int, K_blocks: int) -> Iterator[str]:
    """``address`` <- where ``here``, an address in own shared memory, lies in program ``rank``."""
    if K_blocks > 1:
        yield f"mapa.shared::cluster.u32 {address}, {here}, {rank};"
    elif address != here:
        yield f"mov.b32 {address}, {here};"


def store(address: str, values: list[str], K_blocks: int) -> str:
    """Store 1, 2 or 4 adjacent partials at an address from ``of_program``."""
    space = "shared::cluster" if K_blocks > 1 else "shared"
    return f"st.{space}{_kind(values)} [{address}], {_list(values)};"


def load(values: list[str], address: str) -> str:
    """Load 1, 2 or 4 adjacent partials from own shared memory."""
    return f"ld.shared{_kind(values)} {_list(values)}, [{address}];"


def _kind(values: list[str]) -> str:
    return ".f32" if len(values) == 1 else f".v{len(values)}.f32"


def _list(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{{{', '.join(values)}}}"
