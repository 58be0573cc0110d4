"""A benchmark that replays recorded timings: samplers, resuming and reports without the device.

A recording is gzipped JSON::

    {"schema": 1, "about": "where the times come from",
     "studies": [{"key": ..., "device": ..., "fields": ["kernel", "M_blocks", ...],
                  "trials": [[<field values>, outcome, us, us_low, us_high], ...]}]}

``key`` and ``device`` are those of the store. A configuration that was not recorded takes the time
of the nearest recorded one of its family.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sparse_triton.config import KernelConfig
from sparse_triton.errors import StoreError
from sparse_triton.records import Entry, Timing, Trial

SCHEMA = 1
FIELDS = tuple(f.name for f in fields(KernelConfig))


def record(entries: Iterable[Entry], path: Path, about: str = "") -> int:
    """Write the trials of entries (best: exhaustive ones) as a recording; how many studies."""
    studies = [_study(e) for e in entries]
    devices = sorted({s["device"]["name"] for s in studies})
    text = json.dumps(
        {
            "schema": SCHEMA,
            "about": about or f"measured on {', '.join(devices)}",
            "studies": studies,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(studies)


def _study(entry: Entry) -> dict[str, Any]:
    trials = []
    for t in entry.trials:
        if t.outcome == "invalid":
            continue
        times = (t.timing.us, t.timing.us_low, t.timing.us_high) if t.timing else ()
        trials.append(
            [*(getattr(t.config, f) for f in FIELDS), t.outcome, *(round(u, 3) for u in times)]
        )
    key, device = entry.key.to_dict(), asdict(entry.device)
    return {"key": key, "device": device, "env": entry.env, "fields": FIELDS, "trials": trials}


def load(path: Path) -> list[Entry]:
    """The recorded studies as entries without a winner. Raises ``StoreError`` for other files."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
        if data["schema"] != SCHEMA:
            raise StoreError(f"{path} has schema {data['schema']}, this version reads {SCHEMA}")
        return [_entry(s) for s in data["studies"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as e:
        raise StoreError(f"{path} is not a recording: {e}") from e


def _entry(study: dict[str, Any]) -> Entry:
    names = study["fields"]
    trials = []
    for row in study["trials"]:
        config = dict(zip(names, row[: len(names)], strict=True))
        outcome, *times = row[len(names) :]
        timed = dict(zip(("us", "us_low", "us_high"), times, strict=True)) if times else {}
        trials.append({"config": config, "outcome": outcome, "origin": "recording", **timed})
    return Entry.from_dict({"schema": 1, "best": None, **study, "trials": trials})


@dataclass
class ReplayBench:
    """Answers from a recording, in order. ``measured`` lists what was asked for."""

    recording: Entry
    capacity: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict)
    measured: list[KernelConfig] = field(default_factory=list)
    waiting: deque[tuple[KernelConfig, str]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.known = {t.config: t for t in self.recording.trials}
        self.families: dict[str, list[Trial]] = {}
        for t in self.recording.trials:
            self.families.setdefault(t.config.kernel, []).append(t)

    def submit(self, config: KernelConfig, origin: str) -> None:
        self.waiting.append((config, origin))

    def pending(self) -> int:
        return len(self.waiting)

    def collect(self, best_us: float, timeout_s: float) -> Trial | None:
        if not self.waiting:
            return None
        config, origin = self.waiting.popleft()
        self.measured.append(config)
        played = self.look_up(config)
        outcome = played.outcome
        if played.timing is not None:
            outcome = "slow" if played.timing.us > 1.5 * best_us else "ok"
        why = played.why or ("" if played.timing else f"recorded as {outcome}")
        return Trial(config, outcome, played.timing, why, origin)

    def compare(self, configs: list[KernelConfig]) -> list[Timing]:
        times = [self.look_up(c).timing for c in configs]
        return [t for t in times if t is not None]

    def close(self) -> None:
        self.waiting.clear()

    def look_up(self, config: KernelConfig) -> Trial:
        """The recorded trial, or the nearest of the family; a family never recorded has failed."""
        exact = self.known.get(config)
        if exact is not None:
            return exact
        family = self.families.get(config.kernel)
        if not family:
            return Trial(config, "failed", why=f"{config.kernel} is not in the recording")
        return min(family, key=lambda t: config_distance(t.config, config))


def config_distance(a: KernelConfig, b: KernelConfig) -> float:
    """Steps of the knobs in log2, and one for every other field that differs."""
    out = 0.0
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if name in ("M_blocks", "N_blocks", "Gy"):
            out += abs(math.log2(x / y))
        else:
            out += x != y
    return out
