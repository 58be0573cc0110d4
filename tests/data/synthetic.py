"""Writes ``replay_synthetic.json.gz``: times from a formula, labelled as such, not measurements.

``python -m tests.data.synthetic``. The formula has what tuning has to cope with: an optimum inside
each range, knobs that act together, families that win at different sizes, configurations that fail,
and unevenness that no smooth model explains. Siblings differ by a few percent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autotune.replay import record
from autotune.space import DENSE, SearchSpace
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.plan import default_config, why_not
from sparse_triton.problem import SpmmProblem
from sparse_triton.records import Entry, Key, Timing, Trial

PATH = Path(__file__).parent / "replay_synthetic.json.gz"
ABOUT = "SYNTHETIC: computed by tests/data/synthetic.py; no device was timed"
DEVICE = Device("cuda", "Synthetic GPU", 90, cores=132)
RECORDED = 1200  # configurations of one study
PEAK_FLOP_PER_US = 30e6
PROBLEMS = (
    SpmmProblem(64, 256, 3136, 1638),
    SpmmProblem(64, 256, 3136, 1700),
    SpmmProblem(256, 1024, 196, 26214),
    SpmmProblem(512, 512, 256, 26214),
)


def time_us(problem: SpmmProblem, config: KernelConfig, salt: str) -> float:
    """Launch, plus work spread over what the programs fill, plus a price of each extreme."""
    if config == DENSE:
        return 6.0 + 2e-7 * problem.M * problem.K * problem.N / 10
    block_m = problem.M / config.M_blocks
    block_n = problem.N / config.N_blocks
    lanes = block_n * config.Gy / config.vector
    programs = config.M_blocks * config.N_blocks
    fill = min(1.0, programs * lanes / (DEVICE.cores * 1024))
    work = problem.flop / PEAK_FLOP_PER_US / max(fill, 0.01)
    few_rows = 1 + (2.0 if config.kernel == "unrolled" else 1.0) / block_m
    code = 1 + (problem.nnz / config.M_blocks / 4000 if config.kernel == "unrolled" else 0.4)
    groups = 1 + 0.08 * abs(math.log2(config.Gy) - (1 if block_n >= 32 else 2)) ** 2
    ahead = 1 + 0.03 * abs(math.log2(config.prefetch) - 3.3)
    digest = hashlib.sha256(f"{salt}{config}".encode()).digest()
    uneven = 1 + 0.12 * (digest[0] / 255 - 0.5)
    return 1.3 + work * few_rows * code * groups * ahead * uneven


def study(problem: SpmmProblem, number: int) -> Entry:
    key = Key(problem, hashlib.sha256(f"synthetic {number}".encode()).hexdigest())
    trials = tuple(_trial(problem, c, f"{problem.M}{problem.N}") for c in _configs(problem, number))
    return Entry(key, DEVICE, None, trials, {"about": ABOUT})


def _configs(problem: SpmmProblem, seed: int) -> Iterator[KernelConfig]:
    """Dense, the heuristics, and a draw of the legal space."""
    yield DENSE
    yield default_config(problem, DEVICE)
    legal = [c for c in SearchSpace.of(problem, DEVICE) if why_not(problem, c, DEVICE) is None]
    order = np.random.default_rng(seed).permutation(len(legal))
    yield from (legal[i] for i in order[:RECORDED])


def _trial(problem: SpmmProblem, config: KernelConfig, salt: str) -> Trial:
    us = time_us(problem, config, salt)
    if hashlib.sha256(f"{salt}{config}".encode()).digest()[1] < 5 and config != DENSE:
        return Trial(config, "failed", why="synthetic failure")
    return Trial(config, "ok", Timing(us, us * 0.99, us * 1.02))


def main() -> None:
    record((study(p, i) for i, p in enumerate(PROBLEMS)), PATH, ABOUT)


if __name__ == "__main__":
    main()
