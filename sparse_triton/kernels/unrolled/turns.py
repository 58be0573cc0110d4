"""In which order a warp runs the chunks of a body, in PTX.

A warp that runs code for the first time waits for every line of it, one after the other. Here the
warps of one scheduler begin at different chunks of a round and go round it: all of them fetch at
the same time, each another chunk, and find the rest in the scheduler's instruction cache. Then
comes the next round. The order of a sum follows from its column alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_triton.kernels.columns import UID


def jump(index: str, labels: list[str]) -> Iterator[str]:
    """To one of the labels."""
    yield f"BODIES{UID}: .branchtargets {', '.join(labels)};"
    yield f"brx.idx {index}, BODIES{UID};"


def turns(body: str, start: str, starts: int, chunks: int, labels: list[str]) -> Iterator[str]:
    """Go to chunk ``start`` of the first round of ``body``; from NEXT, where chunks come back to,
    to the one after; from the last one to DONE. ``chunks`` is a multiple of ``starts``, a power
    of two."""
    yield ".reg .b32 chunk, left, rest;"
    yield ".reg .pred over;"
    yield f"mad.lo.u32 chunk, {body}, {chunks}, {start};"
    yield f"mov.b32 left, {chunks};"
    yield f"bra.uni CHUNK{UID};"
    yield f"NEXT{UID}:"
    yield "sub.u32 left, left, 1;"
    yield "setp.eq.u32 over, left, 0;"
    yield f"@over bra.uni DONE{UID};"
    yield "add.u32 chunk, chunk, 1;"
    # Past the last chunk of the round: to its first. All of the round done: to the next round.
    for count, step in (("chunk", "sub"), ("left", "add")):
        yield f"and.b32 rest, {count}, {starts - 1};"
        yield "setp.eq.u32 over, rest, 0;"
        yield f"@over {step}.u32 chunk, chunk, {starts};"
    yield f"CHUNK{UID}:"
    yield from jump("chunk", labels)
