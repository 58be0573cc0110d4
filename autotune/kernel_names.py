"""Which folders of Triton's disk cache a kernel lives in: what an archive has to carry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparse_triton.build import parts_of
from sparse_triton.kernel import Kernel

_stubs: dict[tuple[str, ...], list[str]] = {}  # folders of the launch stubs, by kernels' hashes


@contextlib.contextmanager
def kernel_names(kernel: Kernel) -> Iterator[list[str]]:
    """The list fills with the kernel's folders and those of the launch stubs built meanwhile.

    It stays empty for a kernel that Triton did not compile, and under a foreign cache manager.
    """
    digests = tuple(part.compiled.hash for part in parts_of(kernel))
    names: list[str] = []
    if not digests:
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
        _stubs[digests] = list(names)
    names[:] = [*(get_cache_manager(d).key for d in digests), *_stubs.get(digests, ())]
