"""Removes what a store no longer needs."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

from autotune.archive import select
from sparse_triton.choose import stale
from sparse_triton.records import Entry
from sparse_triton.store import Store

TEMPORARY_AGE_S = 3600.0  # an older temporary file was left by a process that died


def prune(
    store: Store,
    *,
    pattern: str = "",
    device: str = "",
    stale_ones: bool = False,
    older_than_days: float | None = None,
    everything: bool = False,
    dry_run: bool = False,
) -> list[Path]:
    """Files that were removed (or would be): debris always, entries only where an option says so.

    Entries from the future (a clock that was wrong) have age zero.
    """
    doomed = list(_debris(store))
    entries = [
        e
        for e in select(store, pattern, device)
        if everything
        or (stale_ones and stale(e, e.device))
        or (older_than_days is not None and age_days(e) > older_than_days)
    ]
    paths = doomed + [store.path(e.key, e.device.slug) for e in entries]
    if not dry_run:
        for path in doomed:
            path.unlink(missing_ok=True)
        for entry in entries:
            store.remove(entry)
    return paths


def _debris(store: Store) -> Iterator[Path]:
    """Files that were set aside, and temporary files of processes that died."""
    yield from store.folder.glob("*/??/*.bad-*")
    for path in store.folder.glob("*/??/*.tmp"):
        if time.time() - path.stat().st_mtime > TEMPORARY_AGE_S:
            yield path


def age_days(entry: Entry) -> float:
    try:
        then = datetime.datetime.fromisoformat(entry.created)
    except ValueError:
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    return max(0.0, (datetime.datetime.now(datetime.UTC) - then).total_seconds() / 86400)
