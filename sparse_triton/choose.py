"""Which configuration runs a problem, and where the choice came from.

Look-up order, first hit wins:

1. stored     the exact (pattern, problem) on this device;
2. nearest    the same pattern at the nearest N (at most a factor of 8 away);
3. nearest    another pattern, nearest in shape, N and density (at most a factor of 4 in all);
4. heuristic  ``heuristics.default_config``.

Among neighbours, one with the same dtypes, layouts, batch and epilogue goes first. A neighbour's
row blocks and column tiles keep their *sizes*: its counts are scaled. Whatever ``plan.why_not``
refuses is passed over. Nothing is searched or measured here: by default (``SPARSE_TRITON_AUTOTUNE``
unset or ``off``) no call ever tunes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from sparse_triton.config import KernelConfig, ceil_div
from sparse_triton.device import Device, driver_version, triton_version
from sparse_triton.errors import InputError
from sparse_triton.heuristics import default_config
from sparse_triton.plan import why_not
from sparse_triton.problem import ConvProblem, Problem
from sparse_triton.records import Entry, Key
from sparse_triton.store import Store, default_store

if TYPE_CHECKING:
    from sparse_triton.matrix import SparseMatrix

Source = Literal["stored", "nearest", "heuristic", "asked"]
AUTOTUNE = "SPARSE_TRITON_AUTOTUNE"
MAX_N_DISTANCE = 1.5  # same pattern: log2 of the ratio of columns
# Other patterns: log2 ratios of M, K, columns and, twice, density, added. Measured: what comes from
# three quarters of the columns (0.4) may take a fifth longer than the heuristic's choice.
MAX_DISTANCE = 0.3
OTHER_PATTERN = 10.0  # puts other patterns after the same one
OTHER_CLASS = 100.0  # puts neighbours of another batch or epilogue after all others

log = logging.getLogger("sparse_triton")


@dataclass(frozen=True)
class Choice:
    """A configuration and its origin, in words a user can act on.

    us, dense_us  measured times of source "stored", else None
    """

    config: KernelConfig
    source: Source
    why: str
    us: float | None = None
    dense_us: float | None = None


def choose(problem: Problem, pattern_hash: str, device: Device) -> Choice:
    """The configuration for a problem; repeated questions cost a dictionary look-up."""
    store = default_store()
    key = (problem, pattern_hash, device)
    choice = store.memo.get(key)
    if choice is None:
        choice = store.memo[key] = look_up(Key(problem, pattern_hash), device, store)
    return choice


def look_up(key: Key, device: Device, store: Store) -> Choice:
    """As ``choose``, in a given store and without memory."""
    entry = store.get(key, device)
    choice = _stored(entry, device) if entry is not None else None
    if choice is not None:
        return choice
    for _, neighbour in neighbours(key, device, store):
        assert neighbour.best is not None
        config = fitted(neighbour.best.config, neighbour.key.problem, key.problem)
        if why_not(key.problem, config, device) is None:
            return Choice(config, "nearest", _near_words(key, neighbour))
    return Choice(
        default_config(key.problem, device),
        "heuristic",
        "nothing like it was tuned on this device; see python -m autotune warmup",
    )


def _stored(entry: Entry, device: Device) -> Choice | None:
    """The winner, or the fastest trial that is still legal where code or file have changed."""
    _mention_stale(entry, device)
    problem, best = entry.key.problem, entry.best
    if best is not None and why_not(problem, best.config, device) is None:
        words = f"tuned {entry.created[:10]}: {best.timing}, dense {best.dense or 'did not run'}"
        dense_us = best.dense.us if best.dense else None
        return Choice(best.config, "stored", words, best.timing.us, dense_us)
    done = [t for t in entry.trials if t.outcome == "ok" and t.timing is not None]
    done.sort(key=lambda t: t.timing.us if t.timing else math.inf)
    for trial in done:
        if why_not(problem, trial.config, device) is None:
            words = f"fastest of {len(done)} trials of an unfinished study: {trial.timing}"
            return Choice(trial.config, "stored", words, trial.timing.us if trial.timing else None)
    return None


def neighbours(
    key: Key, device: Device, store: Store, limit: float = MAX_DISTANCE
) -> Iterator[tuple[float, Entry]]:
    """(distance, entry) of finished studies to take a configuration from, nearest first."""
    near = []
    for entry in store.index(device.slug):
        d = (
            distance(key, entry.key, limit)
            if entry.best is not None and entry.key != key
            else math.inf
        )
        if d < math.inf:
            near.append((d, entry))
    near.sort(key=lambda pair: (pair[0], pair[1].key.sha256))
    yield from near


def distance(a: Key, b: Key, limit: float = MAX_DISTANCE) -> float:
    """How far b's configuration has to travel; ``inf``: further than ``limit`` (or, for the same
    pattern, than ``MAX_N_DISTANCE`` in columns), or from another dtype or layout, where another
    family pays.

    The same pattern always comes before another one, the same class before another class.
    """
    p, q = a.problem, b.problem
    if p.kind != q.kind or _operands(p) != _operands(q):
        return math.inf
    columns = _log_ratio(p.N * p.batch, q.N * q.batch)
    same = a.pattern_hash == b.pattern_hash
    if same:
        d, limit = columns, max(limit, MAX_N_DISTANCE)
    else:
        density = _log_ratio(p.nnz * q.M * q.K, q.nnz * p.M * p.K)
        d = columns + _log_ratio(p.M, q.M) + _log_ratio(p.K, q.K) + 2 * density
    if d > limit:
        return math.inf
    return d + (0 if same else OTHER_PATTERN) + (0 if _class(p) == _class(q) else OTHER_CLASS)


def _operands(p: Problem) -> tuple[object, ...]:
    return p.x_dtype, p.w_dtype, p.x_layout, p.y_layout


def _class(p: Problem) -> tuple[object, ...]:
    call = (p.batch > 1, p.epilogue)
    if not isinstance(p, ConvProblem):
        return *call, p.accumulate
    return *call, p.R, p.S, p.stride, p.dilation, any(p.padding), p.groups > 1, p.pool


def _log_ratio(a: int, b: int) -> float:
    if a == b:
        return 0.0
    return abs(math.log2(a / b)) if a > 0 and b > 0 else math.inf


def fitted(config: KernelConfig, tuned: Problem, wanted: Problem) -> KernelConfig:
    """The configuration with counts scaled so that blocks keep their sizes."""
    return replace(
        config,
        M_blocks=_scaled(config.M_blocks, tuned.M, wanted.M),
        N_blocks=_scaled(config.N_blocks, tuned.N, wanted.N),
    )


def _scaled(blocks: int, tuned: int, wanted: int) -> int:
    return max(1, ceil_div(blocks * wanted, max(1, tuned)))


def _near_words(key: Key, neighbour: Entry) -> str:
    same = neighbour.key.pattern_hash == key.pattern_hash
    whose = "this weight" if same else f"a similar weight ({neighbour.key.problem})"
    return f"tuned for {whose} at N={neighbour.key.problem.N}; the blocks keep their sizes"


# -- stale entries ---------------------------------------------------------------------------------

_mentioned: set[tuple[str, ...]] = set()


def stale(entry: Entry, device: Device) -> str:
    """What differs between then and now, or ''. A stale entry is used all the same."""
    from sparse_triton import __version__

    now = {"sparse_triton": __version__, "triton": triton_version()}
    if device.kind == "cuda":
        now |= {"driver": driver_version()}
    then = {name: entry.env.get(name, "unknown") for name in now}
    return ", ".join(f"{n} {then[n]} (now {now[n]})" for n in now if then[n] != now[n])


def _mention_stale(entry: Entry, device: Device) -> None:
    reason = stale(entry, device)
    if reason and (device.slug, reason) not in _mentioned:
        _mentioned.add((device.slug, reason))
        log.warning(
            "configurations tuned with %s are used as they are; tune again to refresh them", reason
        )


# -- tuning at the first call, only where asked for ------------------------------------------------


def autotune_mode() -> str:
    """``$SPARSE_TRITON_AUTOTUNE``: "off" (default), "quick" or "full".

    Raises ``InputError`` for anything else.
    """
    mode = os.environ.get(AUTOTUNE, "") or "off"
    if mode not in ("off", "quick", "full"):
        raise InputError(f"{AUTOTUNE} must be off, quick or full, got {mode!r}")
    return mode


def tune_first(W: SparseMatrix, problem: Problem, device: torch.device) -> None:
    """Tune an untuned problem if ``SPARSE_TRITON_AUTOTUNE`` asks for it and nothing is traced."""
    mode = autotune_mode()
    if mode == "off" or torch.compiler.is_compiling():
        return
    entry = default_store().get(Key(problem, W.pattern_hash), Device.of(device))
    if entry is None or entry.best is None:
        import autotune  # the only way back: on demand, and never by default

        autotune.tune(W, problem, budget=mode, device=device)
