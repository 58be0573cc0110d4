"""What the store holds, as frozen values: ``Key``, ``Trial``, ``Best``, ``Entry`` and their JSON.

Reading trusts nothing: a missing field, a wrong type, an unknown schema or a number that is no time
raises ``StoreError``, and the store sets the file aside.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import InputError, StoreError
from sparse_triton.problem import ConvProblem, Epilogue, Pool, Problem, SpmmProblem

SCHEMA = 1
Outcome = Literal["ok", "slow", "wrong", "failed", "invalid"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Key:
    """What a tuned configuration is for, besides the device."""

    problem: Problem
    pattern_hash: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.problem.kind,
            "pattern_hash": self.pattern_hash,
            "problem": self.problem.to_dict(),
        }

    @cached_property
    def sha256(self) -> str:
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def from_dict(d: Any) -> Key:
        kind, pattern, problem = _take(d, kind=str, pattern_hash=str, problem=dict)
        if kind not in ("spmm", "conv"):
            raise StoreError(f"kind must be 'spmm' or 'conv', got {kind!r}")
        return Key(_spmm(problem) if kind == "spmm" else _conv(problem), pattern)


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: estimate (GPU: median, CPU: minimum), 20 and 80 % quantiles."""

    us: float
    us_low: float
    us_high: float

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(d: Any) -> Timing:
        us, low, high = _take(d, us=float, us_low=float, us_high=float)
        if not all(math.isfinite(t) and t > 0 for t in (us, low, high)):
            raise StoreError(f"times must be positive microseconds, got {d}")
        return Timing(us, low, high)

    def __str__(self) -> str:
        return f"{self.us:.2f} us"


@dataclass(frozen=True)
class Trial:
    """One configuration and what became of it.

    outcome     ok: verified and timed; slow: verified, timing stopped early; wrong: outside the
                error bound; failed: did not build or run; invalid: ``why_not`` said no
    timing      of outcomes ok and slow
    why         the reason of the other outcomes
    origin      who proposed it: dense, heuristic, step, neighbour, sibling or sampler
    compile_s   seconds of building, where it was built for this trial
    resources   registers, spill_bytes, ... where they were read
    kernels     names of the compiled kernels in Triton's cache
    """

    config: KernelConfig
    outcome: Outcome
    timing: Timing | None = None
    why: str = ""
    origin: str = "sampler"
    compile_s: float | None = None
    resources: dict[str, int] = field(default_factory=dict, hash=False)
    kernels: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is empty is left out."""
        d: dict[str, Any] = {"outcome": self.outcome, "origin": self.origin}
        d |= self.timing.to_dict() if self.timing else {}
        d["config"] = self.config.to_dict()
        if self.compile_s is not None:
            d["compile_s"] = round(self.compile_s, 3)
        rest = {"why": self.why, "resources": self.resources, "kernels": list(self.kernels)}
        return d | {name: value for name, value in rest.items() if value}

    @staticmethod
    def from_dict(d: Any) -> Trial:
        outcome, origin, config = _take(d, outcome=str, origin=str, config=dict)
        if outcome not in OUTCOMES:
            raise StoreError(f"outcome must be one of {OUTCOMES}, got {outcome!r}")
        timed = outcome in ("ok", "slow")
        seconds = d.get("compile_s")
        return Trial(
            config=KernelConfig.from_dict(config),
            outcome=outcome,
            timing=Timing.from_dict(d) if timed else None,
            why=str(d.get("why", "")),
            origin=origin,
            compile_s=seconds if isinstance(seconds, float | int) else None,
            resources=_integers(d.get("resources", {})),
            kernels=tuple(str(k) for k in d.get("kernels", ())),
        )


@dataclass(frozen=True)
class Best:
    """The winner of the last comparison, and dense in the same one (None: dense did not run)."""

    config: KernelConfig
    timing: Timing
    dense: Timing | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            **self.timing.to_dict(),
            "dense": self.dense.to_dict() if self.dense else None,
        }

    @staticmethod
    def from_dict(d: Any) -> Best:
        (config,) = _take(d, config=dict)
        dense = d.get("dense")
        return Best(
            KernelConfig.from_dict(config),
            Timing.from_dict(d),
            None if dense is None else Timing.from_dict(dense),
        )

    @property
    def speedup(self) -> float:
        """Times faster than dense: 1.0 where dense is best, NaN where dense did not run."""
        return self.dense.us / self.timing.us if self.dense else math.nan


@dataclass(frozen=True)
class Entry:
    """All that is known about one key on one device.

    best     None until a study has ended once
    env      versions the times were taken with
    created  ISO 8601, for people: nothing is decided by it
    note     e.g. which sibling the configuration came from
    """

    key: Key
    device: Device
    best: Best | None
    trials: tuple[Trial, ...]
    env: dict[str, str] = field(default_factory=dict, hash=False)
    created: str = ""
    note: str = ""

    def outcomes(self) -> Counter[str]:
        return Counter(t.outcome for t in self.trials)

    def with_trials(self, *trials: Trial) -> Entry:
        """The entry with trials added; a configuration's later trial replaces its earlier one."""
        by_config = {t.config: t for t in (*self.trials, *trials)}
        return replace(self, trials=tuple(by_config.values()))

    def to_json(self) -> str:
        """Readable: the answer first, then one line per trial."""
        head = {
            "schema": SCHEMA,
            "key": self.key.to_dict(),
            "device": asdict(self.device),
            "best": self.best.to_dict() if self.best else None,
            "note": self.note,
            "created": self.created,
            "env": self.env,
        }
        trials = ",\n".join("  " + json.dumps(t.to_dict()) for t in self.trials)
        body = json.dumps(head, indent=1).removesuffix("\n}")
        return f'{body},\n "trials": [\n{trials}\n ]\n}}\n'

    @staticmethod
    def from_dict(d: Any) -> Entry:
        schema, key, device, trials, env = _take(
            d, schema=int, key=dict, device=dict, trials=list, env=dict
        )
        if schema != SCHEMA:
            raise StoreError(f"schema must be {SCHEMA}, got {schema}")
        best = d.get("best")
        return Entry(
            key=Key.from_dict(key),
            device=_device(device),
            best=None if best is None else Best.from_dict(best),
            trials=tuple(Trial.from_dict(t) for t in trials),
            env={str(k): str(v) for k, v in env.items()},
            created=str(d.get("created", "")),
            note=str(d.get("note", "")),
        )


def _take(d: Any, **wanted: type) -> list[Any]:
    """The named fields of a JSON object, each of its type."""
    if not isinstance(d, dict):
        raise StoreError(f"expected an object with {sorted(wanted)}, got {type(d).__name__}")
    out = []
    for name, kind in wanted.items():
        value = d.get(name)
        number = kind is float and isinstance(value, int)
        if isinstance(value, bool) or not (isinstance(value, kind) or number):
            raise StoreError(f"{name} must be {kind.__name__}, got {value!r:.60}")
        out.append(value)
    return out


def _spmm(d: dict[str, Any]) -> SpmmProblem:
    epilogue = d.get("epilogue")
    _take(d, M=int, K=int, N=int, nnz=int, batch=int, x_dtype=str, w_dtype=str, epilogue=dict)
    assert isinstance(epilogue, dict)
    try:
        return SpmmProblem(**{**d, "epilogue": Epilogue(**epilogue)})
    except (TypeError, InputError) as e:
        raise StoreError(f"not a problem of this version: {e}") from None


def _conv(d: dict[str, Any]) -> ConvProblem:
    whole = dict.fromkeys(("batch", "C", "H", "W", "M", "R", "S", "nnz", "groups"), int)
    _take(d, **whole, x_dtype=str, w_dtype=str, x_layout=str, y_layout=str, epilogue=dict)
    pool = d.get("pool")
    try:
        return ConvProblem(
            **{
                **d,
                "stride": _whole(d.get("stride"), 2),
                "padding": _whole(d.get("padding"), 4),
                "dilation": _whole(d.get("dilation"), 2),
                "epilogue": Epilogue(**d["epilogue"]),
                "pool": None if pool is None else _pool(pool),
            }
        )
    except TypeError as e:
        raise StoreError(f"not a problem of this version: {e}") from None


def _pool(d: Any) -> Pool:
    (kind,) = _take(d, kind=str)
    kernel, stride, padding = (_whole(d.get(name), 2) for name in ("kernel", "stride", "padding"))
    return Pool(kind, kernel, stride, padding)


def _whole(d: Any, count: int) -> Any:
    """``count`` whole numbers: JSON has lists where a problem has tuples."""
    if not isinstance(d, list | tuple) or len(d) != count or not all(type(n) is int for n in d):
        raise StoreError(f"expected {count} whole numbers, got {d!r:.60}")
    return tuple(d)


def _device(d: dict[str, Any]) -> Device:
    _take(d, kind=str, name=str, arch=int, cores=int)
    known = {f.name for f in fields(Device)}
    try:
        return Device(**{name: value for name, value in d.items() if name in known})
    except TypeError as e:
        raise StoreError(f"not a device: {e}") from None


def _integers(d: Any) -> dict[str, int]:
    if not isinstance(d, dict) or not all(isinstance(v, int) for v in d.values()):
        raise StoreError(f"resources must be whole numbers by name, got {d!r:.60}")
    return d
