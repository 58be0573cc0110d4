"""How much of a multiprocessor's memory a full house of programs takes as shared memory."""

from __future__ import annotations

import pytest

from sparse_triton.carveout import carveout

SHARED = 228 * 1024


@pytest.mark.parametrize(
    ("program_bytes", "registers", "threads", "programs"),
    [
        (9 * 1024, 32, 256, 8),  # all threads
        (9 * 1024, 64, 256, 4),  # as many as registers allow
        (17 * 1024, 32, 1024, 2),
        (1024, 255, 1024, 1),  # one at least
        (100 * 1024, 32, 256, None),  # more than there is
    ],
)
def test_programs_that_fit(
    program_bytes: int, registers: int, threads: int, programs: int | None
) -> None:
    percent = carveout(program_bytes, registers, threads, SHARED)
    if programs is None:
        assert percent == 100
    else:
        assert (percent - 1) * SHARED < 100 * programs * program_bytes <= percent * SHARED
