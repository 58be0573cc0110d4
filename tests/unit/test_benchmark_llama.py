"""The Llama-style benchmark on tiny sizes: both stacks compute the same, and the table has it."""

from __future__ import annotations

import torch

from benchmarks import llama


def test_a_small_stack_on_a_cpu() -> None:
    model = llama.Model(hidden=32, intermediate=48, heads=2, layers=2, context=5)
    rows = llama.run(torch.device("cpu"), model, (0.5,), (1, 3))
    assert [(r["sparsity"], r["tokens"]) for r in rows] == [(0.5, 1), (0.5, 3)]
    assert all(0 <= r["error"] <= llama.MAX_ERROR for r in rows)
    assert "| 50% | 3 |" in llama.table(rows)


def test_rotary_positions_keep_lengths() -> None:
    model = llama.Model(hidden=32, intermediate=48, heads=2, layers=1, context=5)
    stack = llama.Stack(model, 1, [], torch.device("cpu"))
    x = torch.randn(3, 2, 16)
    turned = stack._turned(x)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=5e-3)
    assert not torch.allclose(turned, x)
