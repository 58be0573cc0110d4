"""Tuned configurations, carried to another machine: a zip of entries, with binaries if asked.

``entries/<device-slug>/<sha256>.json`` are files of the store; ``kernels/<folder>/<file>`` are
folders of Triton's disk cache, see ``kernel_files``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune import kernel_files
from sparse_triton.errors import ConfigError, StoreError
from sparse_triton.records import Entry
from sparse_triton.store import Store

MANIFEST = "manifest.json"
FORMAT = {"format": "sparse-triton archive", "schema": 1}
VERSIONS = ("sparse_triton", "triton", "driver")  # times of different ones are not mixed
MAX_MEMBER_BYTES = 256 * 2**20


def select(store: Store, pattern: str = "", device: str = "") -> list[Entry]:
    """Entries whose pattern hash begins, and whose device's name contains, what is given."""
    return [
        e
        for e in store.entries()
        if e.key.pattern_hash.startswith(pattern) and device.lower() in e.device.name.lower()
    ]


def export_archive(entries: Iterable[Entry], path: Path, with_kernels: bool) -> dict[str, int]:
    """Write the archive; how many ``entries``, ``kernels`` and ``kernels missing`` there were.

    Only the winners' binaries travel. Raises ``StoreError`` where the file cannot be written.
    """
    entries = list(entries)
    summary = {"entries": len(entries)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr(MANIFEST, json.dumps(FORMAT))
            for e in entries:
                z.writestr(f"entries/{e.device.slug}/{e.key.sha256}.json", e.to_json())
            if with_kernels:
                wanted = {name for e in entries for name in _kernels_of(e)}
                summary |= kernel_files.add(z, wanted)
    except OSError as e:
        raise StoreError(f"{path} cannot be written: {e}") from e
    return summary


def _kernels_of(entry: Entry) -> Iterator[str]:
    for trial in entry.trials:
        if entry.best is not None and trial.config == entry.best.config:
            yield from trial.kernels


def import_archive(
    path: Path, store: Store, overwrite: bool = False, with_kernels: bool = False
) -> dict[str, int]:
    """Merge the archive into the store; how many entries were new, merged, kept and broken.

    with_kernels  also install the binaries it holds. They are code: trust where they come from.

    Raises ``StoreError`` for a file that is no archive.
    """
    summary = dict.fromkeys(("new", "merged", "kept", "broken"), 0)
    try:
        with zipfile.ZipFile(path) as z:
            _check_manifest(z)
            for member in z.infolist():
                if member.filename.startswith("entries/"):
                    summary[_import_entry(z, member, store, overwrite)] += 1
            summary |= kernel_files.install(z) if with_kernels else kernel_files.left_out(z)
    except (OSError, zipfile.BadZipFile, KeyError) as e:
        raise StoreError(f"{path} is not a readable archive of tuned configurations: {e}") from e
    return summary


def _check_manifest(z: zipfile.ZipFile) -> None:
    try:
        manifest: Any = json.loads(z.read(MANIFEST))
    except (KeyError, ValueError) as e:
        raise StoreError(f"{z.filename} is no archive of tuned configurations: {e}") from e
    if manifest != FORMAT:
        raise StoreError(f"{z.filename} says {manifest}, this version reads {FORMAT}")


def _import_entry(
    z: zipfile.ZipFile, member: zipfile.ZipInfo, store: Store, overwrite: bool
) -> str:
    """What became of one entry: its place in the store follows from its content, not its name."""
    if member.file_size > MAX_MEMBER_BYTES:
        return "broken"
    try:
        theirs = Entry.from_dict(json.loads(z.read(member)))
    except (ValueError, RecursionError, StoreError, ConfigError, zipfile.BadZipFile):
        return "broken"
    with store.lock(theirs.key, theirs.device):
        mine = store.get(theirs.key, theirs.device)
        both = merge(mine, theirs, overwrite)
        if both == mine:
            return "kept"
        store.put(both)
    return "new" if mine is None else "merged"


def merge(mine: Entry | None, theirs: Entry, overwrite: bool) -> Entry:
    """Trials of both; the faster winner, mine on a tie; theirs throughout with ``overwrite``.

    Trials of other versions are not mixed: then the entry with the faster winner stays whole.
    """
    if mine is None:
        return theirs
    theirs_wins = overwrite or _best_us(theirs) < _best_us(mine)
    if any(mine.env.get(v) != theirs.env.get(v) for v in VERSIONS):
        return theirs if theirs_wins else mine
    low, high = (mine, theirs) if overwrite else (theirs, mine)
    trials = low.with_trials(*high.trials).trials
    winner = theirs if theirs_wins else mine
    return replace(winner, trials=_in_order(mine, trials))


def _in_order(mine: Entry, trials: tuple[Any, ...]) -> tuple[Any, ...]:
    """Mine first, as they were: merging twice changes nothing."""
    place = {t.config: i for i, t in enumerate(mine.trials)}
    return tuple(sorted(trials, key=lambda t: place.get(t.config, len(place))))


def _best_us(entry: Entry) -> float:
    return entry.best.timing.us if entry.best else float("inf")
