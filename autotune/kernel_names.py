"""Which folders of Triton's disk cache a kernel lives in: what an archive has to carry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from triton import knobs
from triton.runtime.cache import FileCacheManager, get_cache_manager


class _Recorder(FileCacheManager):  # type: ignore[misc]
    """Triton's own cache, taking note of the folders it is asked for."""

    names: ClassVar[list[str]] = []

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        if not (override or dump):
            self.names.append(key)


@contextlib.contextmanager
def kernel_names(kernel: Any) -> Iterator[list[str]]:
    """The list fills with the kernel's folder and those of the launch stubs built meanwhile."""
    names: list[str] = []
    digest = getattr(getattr(kernel, "compiled", None), "hash", None)
    if digest is None or knobs.cache.manager_class is not None:
        yield names
        return
    names.append(get_cache_manager(digest).key)
    outer, _Recorder.names = _Recorder.names, []
    try:
        with knobs.cache.scope():
            knobs.cache.manager_class = _Recorder
            yield names
        names += _Recorder.names
    finally:
        _Recorder.names = outer
