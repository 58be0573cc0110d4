"""Weights from memory: a product bound by its weight is timed over copies in turn, no other is."""

from __future__ import annotations

from dataclasses import replace

import torch

from autotune import rotation
from sparse_triton.problem import SpmmProblem

LAYER = SpmmProblem(4096, 4096, 1, 2**20, x_dtype="float16", w_dtype="float16")


class Counted:
    """A kernel that says which of its bindings ran."""

    def __init__(self) -> None:
        self.bindings = 0
        self.ran: list[int] = []

    def bind(self, device: torch.device):  # type: ignore[no-untyped-def]
        number = self.bindings
        self.bindings += 1
        return lambda *operands: self.ran.append(number)


def test_copies_take_turns() -> None:
    kernel = Counted()
    run = rotation.bound(kernel, LAYER, torch.device("cuda"))  # type: ignore[arg-type]
    copies = rotation.copies_of(2 * 4096 * 4096)
    assert kernel.bindings == copies >= 5
    for _ in range(copies + 1):
        run(None, None, None, None)  # type: ignore[arg-type]
    assert kernel.ran == [*range(copies), 0]


def test_other_products_have_one_copy() -> None:
    for problem, device in (
        (LAYER, "cpu"),
        (replace(LAYER, N=64), "cuda"),
        (replace(LAYER, w_dtype="float32"), "cuda"),
        (replace(LAYER, M=64), "cuda"),
    ):
        kernel = Counted()
        rotation.bound(kernel, problem, torch.device(device))  # type: ignore[arg-type]
        assert kernel.bindings == 1


def test_copies_are_larger_than_a_cache_together() -> None:
    assert rotation.copies_of(10**9) == 2
    assert rotation.copies_of(2**20) * 2**20 >= rotation.ROTATED_BYTES
