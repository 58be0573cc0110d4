"""Every kernel that an untuned model needs, compiled on all cores before its first call."""

from __future__ import annotations

from pathlib import Path

from autotune.compile_pool import CompilePool
from autotune.worker import Job, save_csr
from sparse_triton.choose import choose
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.executor import Seen
from sparse_triton.kernels import families_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.problem import Problem

LIMIT_S = 180.0


Wanted = tuple[tuple[str, Problem, KernelConfig], SparseMatrix]


def compile_ahead(seen: Seen, device: Device) -> int:
    """Fill Triton's cache with what the products and convolutions ``seen`` run; how many there are.

    A kernel that does not compile is left to the call that needs it, and to its error.
    """
    wanted = {}
    for W, problem in seen:
        config = choose(problem, W.pattern_hash, device).config
        if families_of(problem)[config.kernel].device_kind == "cuda":
            wanted[W.weight_id, problem, config] = W
    if len(wanted) < 2:
        return len(wanted)
    with CompilePool(timeout_s=LIMIT_S) as pool:
        files: dict[str, Path] = {}
        waiting = set()
        for (weight_id, problem, config), W in sorted(wanted.items(), key=_cost):
            number = pool.number()
            file = files.setdefault(weight_id, pool.folder / f"{weight_id}.npz")
            if not file.is_file():
                save_csr(W.csr, file)
            out = pool.folder / f"{number}.parcel"
            pool.submit(Job(number, file, problem, config, device, out))
            waiting.add(number)
        while waiting:
            waiting -= {built.number for built in pool.take(waiting, LIMIT_S)}
    return len(wanted)


def _cost(entry: Wanted) -> tuple[bool, int]:
    """Programs that hold the weight take longest: they come first."""
    (_, problem, config), W = entry
    return not families_of(problem)[config.kernel].compiles_weight, -W.nnz
