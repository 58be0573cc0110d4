"""A kernel of several launches, one after the other, compiled side by side."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from sparse_triton.build import KernelSource, TritonKernel, compile_kernel
from sparse_triton.kernel import Kernel, Run


@dataclass(frozen=True, eq=False)
class InTurn:
    """Each part fills its own share of Y."""

    parts: tuple[TritonKernel, ...]

    def bind(self, device: torch.device) -> Run:
        runs = [part.bind(device) for part in self.parts]

        def run(
            X: torch.Tensor,
            Y: torch.Tensor,
            bias: torch.Tensor | None,
            residual: torch.Tensor | None,
        ) -> None:
            for one in runs:
                one(X, Y, bias, residual)

        return run


def compile_in_turn(sources: Sequence[KernelSource], arch: int) -> Kernel:
    """The kernel of these sources; most of the time goes to processes of the assembler.

    Raises ``BuildError`` as ``compile_kernel`` does.
    """
    if len(sources) == 1:
        return compile_kernel(sources[0], arch)
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as pool:
        return InTurn(tuple(pool.map(functools.partial(compile_kernel, arch=arch), sources)))
