"""Ctrl-C that is not lost: an exception raised inside a compiler's callback is swallowed there."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_asked = threading.Event()


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Within, an interrupt is also remembered, for ``check`` to raise where it can be heard.

    Where it was swallowed, the interpreter does not print it: ``check`` will tell.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before, hook = signal.signal(signal.SIGINT, _remember), sys.unraisablehook

    def quietly(swallowed: sys.UnraisableHookArgs) -> None:
        if not (_asked.is_set() and issubclass(swallowed.exc_type, KeyboardInterrupt)):
            hook(swallowed)

    sys.unraisablehook = quietly
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        _asked.clear()


def check() -> None:
    """Raise the ``KeyboardInterrupt`` that was asked for and swallowed, if one was."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
