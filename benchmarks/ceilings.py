"""What this GPU can do at best, measured: the floor that times are held against."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from autotune.timing import STAGE_2, estimate, timer_for
from sparse_triton.problem import SpmmProblem
from sparse_triton.roofline import peak_of

COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Ceilings:
    """launch_us: an empty kernel in a graph; bytes_per_us: a large device-to-device copy, read plus
    written; flop_per_us: float32 FMA peak by the clock."""

    launch_us: float
    bytes_per_us: float
    flop_per_us: float

    @staticmethod
    def measure(device: torch.device) -> Ceilings:
        source = torch.empty(COPY_BYTES // 4, device=device).normal_()
        target = torch.empty_like(source)
        tiny = torch.empty(1, device=device)
        return Ceilings(
            launch_us=_us(lambda: tiny.zero_(), device),
            bytes_per_us=2 * COPY_BYTES / _us(lambda: target.copy_(source), device),
            flop_per_us=peak_of(device).flop_per_us,
        )

    def floor_us(self, problem: SpmmProblem) -> float:
        """Launch plus the longer of least traffic and useful arithmetic.

        Traffic counts as memory's: what a replayed graph finds in L2 comes faster, so that times
        may lie below this floor.
        """
        traffic = problem.min_bytes / self.bytes_per_us
        return self.launch_us + max(traffic, problem.flop / self.flop_per_us)

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def _us(call: object, device: torch.device) -> float:
    timer = timer_for(call, device)  # type: ignore[arg-type]
    return estimate(timer.samples(STAGE_2["cuda"]), "cuda").us
