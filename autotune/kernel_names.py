"""Which folders of Triton's disk cache a kernel lives in: what an archive has to carry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_stubs: dict[str, list[str]] = {}  # folders of the launch stubs, by the kernel's hash


@contextlib.contextmanager
def kernel_names(kernel: Any) -> Iterator[list[str]]:
    """The list fills with the kernel's folder and those of the launch stubs built meanwhile.

    It stays empty for a kernel that Triton did not compile, and under a foreign cache manager.
    """
    digest = getattr(getattr(kernel, "compiled", None), "hash", None)
    names: list[str] = []
    if digest is None:
        yield names
        return
    from triton import knobs
    from triton.runtime.cache import FileCacheManager, get_cache_manager

    if knobs.cache.manager_class is not None:
        yield names
        return

    class Recorder(FileCacheManager):  # type: ignore[misc]
        """Triton's own cache, taking note of the folders it is asked for."""

        def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
            super().__init__(key, override, dump)
            if not (override or dump):
                names.append(key)

    with knobs.cache.scope():
        knobs.cache.manager_class = Recorder
        yield names
    if names:  # a kernel that was loaded before asks for no stub again
        _stubs[digest] = list(names)
    names[:] = [get_cache_manager(digest).key, *_stubs.get(digest, ())]
