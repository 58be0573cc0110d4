"""An end to what has none of its own: a compiler's search, say."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Limit:
    """``over``: the time ran out."""

    over: bool = False


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[Limit]:
    """Raise ``TimeoutError`` in the block once the time is over; in the main thread only.

    The block may catch it, or raise something else in its stead: ``over`` tells.
    """
    limit = Limit()

    def stop(number: int, frame: FrameType | None) -> None:
        limit.over = True
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield limit
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
