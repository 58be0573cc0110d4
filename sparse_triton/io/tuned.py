"""The tuned configurations of a model's weights: they travel in its file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sparse_triton.errors import SparseTritonError
from sparse_triton.records import Entry
from sparse_triton.store import Store


def collect(store: Store, pattern_hashes: Collection[str]) -> list[dict[str, Any]]:
    """Finished studies of these patterns, of any device, each with its winner's trial alone."""
    found = []
    for entry in store.entries():
        best = entry.best
        if best is not None and entry.key.pattern_hash in pattern_hashes:
            winner = tuple(t for t in entry.trials if t.config == best.config)
            found.append(json.loads(replace(entry, trials=winner).to_json()))
    return found


def merge_into(store: Store, tuned: Any) -> int:
    """Put those that the store does not have; how many. What cannot be read costs one warning."""
    added, broken = 0, 0
    for d in tuned if isinstance(tuned, list) else []:
        try:
            entry = Entry.from_dict(d)
        except (ValueError, TypeError, SparseTritonError):
            broken += 1
            continue
        with store.lock(entry.key, entry.device):
            if store.get(entry.key, entry.device) is None:
                added += store.put(entry)
    if broken:
        warnings.warn(
            f"{broken} tuned configurations of the file are of another version and were left out; "
            "tune again with python -m autotune warmup",
            stacklevel=3,
        )
    return added
