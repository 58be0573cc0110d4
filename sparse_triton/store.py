"""Best configurations on disk: one readable JSON file per (pattern, problem, device).

``<cache>/v1/<device-slug>/<2 hex>/<sha256>.json``, where ``<cache>`` is ``SPARSE_TRITON_CACHE_DIR``
or the user's cache folder, and the hash is that of the key, which stands in the file in clear.
The key holds no values of W: a family that compiles values in (``unrolled``) takes the same time
whatever they are, so its measurements belong to the pattern.

Writing is atomic (temporary file beside, fsync, ``os.replace``), so readers take no lock. A file
that cannot be understood is set aside as ``*.bad-<n>`` with one warning and is then a miss; a
folder that cannot be written costs one warning, and what was to be written is kept in memory.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from sparse_triton.atomic import write_atomically
from sparse_triton.device import Device
from sparse_triton.errors import ConfigError, StoreError
from sparse_triton.records import Entry, Key

CACHE_DIR = "SPARSE_TRITON_CACHE_DIR"
Stamp = tuple[int, int, int]
RESCAN_SECONDS = 1.0  # how old this process's view of a device's folder may be


def cache_dir() -> Path:
    """``$SPARSE_TRITON_CACHE_DIR``, else the platform's cache folder for ``sparse-triton``."""
    named = os.environ.get(CACHE_DIR)
    return Path(named) if named else Path(platformdirs.user_cache_dir("sparse-triton"))


class Store:
    """The entries under one folder. Any number of processes may share it.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> list(store.entries())
    []
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else cache_dir()
        self.memo: dict[Any, Any] = {}  # answers drawn from the store; dropped with every change
        self._read: dict[Path, tuple[Stamp, Entry]] = {}
        self._unsaved: dict[Path, Entry] = {}
        self._scanned: dict[str, tuple[float, list[Entry]]] = {}
        self._complained: set[str] = set()

    # -- places ------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return self.root / "v1"

    def path(self, key: Key, device_slug: str) -> Path:
        name = key.sha256
        return self.folder / device_slug / name[:2] / f"{name}.json"

    # -- reading -----------------------------------------------------------------------------

    def get(self, key: Key, device: Device) -> Entry | None:
        """The entry of a key, or None; never raises for what a file holds."""
        return self._load(self.path(key, device.slug))

    def entries(self, device_slug: str | None = None) -> Iterator[Entry]:
        """Every readable entry, of one device or of all."""
        seen = set()
        for path in sorted(self.folder.glob(f"{device_slug or '*'}/??/*.json")):
            seen.add(path)
            entry = self._load(path)
            if entry is not None:
                yield entry
        for path, entry in self._unsaved.items():
            if path not in seen and device_slug in (None, entry.device.slug):
                yield entry

    def index(self, device_slug: str) -> list[Entry]:
        """The device's entries as seen at most ``RESCAN_SECONDS`` ago, or since our own change."""
        then, known = self._scanned.get(device_slug, (float("-inf"), []))
        if time.monotonic() - then > RESCAN_SECONDS:
            known = list(self.entries(device_slug))
            self._scanned[device_slug] = (time.monotonic(), known)
        return known

    def _load(self, path: Path) -> Entry | None:
        if path in self._unsaved:
            return self._unsaved[path]
        try:
            stamp = _stamp(path)
            known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            entry = self._parse(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            self.complain(f"read {path}", f"the tuned configuration in {path} cannot be read: {e}")
            return None
        except (ValueError, RecursionError, ConfigError, StoreError) as e:
            self._set_aside(path, stamp, str(e))
            return None
        self._read[path] = (stamp, entry)
        return entry

    def _parse(self, path: Path) -> Entry:
        entry = Entry.from_dict(json.loads(path.read_bytes()))
        if self.path(entry.key, entry.device.slug) != path:
            raise StoreError("its key or device is not the one its place says")
        return entry

    def _set_aside(self, path: Path, stamp: Stamp, reason: str) -> None:
        self._read.pop(path, None)
        moved = _free_name(path)
        try:
            if _stamp(path) != stamp:  # somebody wrote a good one meanwhile
                return
            os.replace(path, moved)
        except OSError:
            moved = path
        self.complain(
            f"bad {path}",
            f"{path.name} is not an entry of the store ({reason[:300]}); it was set aside as "
            f"{moved} and the weight counts as not tuned",
        )

    # -- writing -----------------------------------------------------------------------------

    def put(self, entry: Entry) -> bool:
        """Write an entry; False, after one warning, where the folder takes no file."""
        path = self.path(entry.key, entry.device.slug)
        self._changed(entry)
        try:
            write_atomically(path, entry.to_json())
        except OSError as e:
            self._unsaved[path] = entry
            self.complain(
                "write",
                f"the store {self.root} cannot be written ({e}); tuned configurations hold for "
                f"this process only. Set {CACHE_DIR} to a folder with space and write access",
            )
            return False
        self._unsaved.pop(path, None)
        self._read[path] = (_stamp(path), entry)
        return True

    def _changed(self, entry: Entry) -> None:
        self.memo.clear()
        self._scanned.pop(entry.device.slug, None)

    def remove(self, entry: Entry) -> None:
        """Forget an entry; missing files are fine."""
        path = self.path(entry.key, entry.device.slug)
        self._changed(entry)
        self._read.pop(path, None)
        self._unsaved.pop(path, None)
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)

    def lock(self, key: Key, device: Device) -> KeyLock:
        """The one lock of a key, not yet taken."""
        return KeyLock(self, self.path(key, device.slug).with_suffix(".lock"))

    def complain(self, about: str, message: str) -> None:
        """Warn once about each thing."""
        if about not in self._complained:
            self._complained.add(about)
            warnings.warn(message, stacklevel=3)


class KeyLock:
    """Held by the one process that tunes a key; it dies with its process, however that ends.

    Where no lock can be made (a read-only folder), taking it succeeds after one warning.
    """

    def __init__(self, store: Store, path: Path) -> None:
        self.store, self.path = store, path
        self.lock = filelock.FileLock(path)

    def acquire(self, wait: bool = True) -> bool:
        """Whether the lock was taken; False only without ``wait``, when another process has it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=wait)
        except filelock.Timeout:
            return False
        except (OSError, NotImplementedError) as e:
            where = self.store.root
            self.store.complain("lock", f"no lock can be taken in {where} ({e}); going on without")
        return True

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> KeyLock:
        self.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def _stamp(path: Path) -> Stamp:
    """Changes whenever the file is replaced or written; compares, never orders: clocks may lie."""
    s = path.stat()
    return s.st_ino, s.st_mtime_ns, s.st_size


def _free_name(path: Path) -> Path:
    n = 0
    while (moved := path.with_name(f"{path.name}.bad-{n}")).exists():
        n += 1
    return moved


_stores: dict[str | None, Store] = {}


def default_store() -> Store:
    """The store of this process's cache folder; one object per folder."""
    named = os.environ.get(CACHE_DIR)
    store = _stores.get(named)
    if store is None:
        store = _stores[named] = Store()
    return store


def as_store(store: Store | str | os.PathLike[str] | None) -> Store:
    """A store from whatever names one; None: the default."""
    if isinstance(store, Store):
        return store
    return default_store() if store is None else Store(store)
