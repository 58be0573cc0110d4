"""Attention compiles everywhere without spills, loads 16 bytes at a time, and multiplies on tensor
cores."""

from __future__ import annotations

import pytest

from sparse_triton.build import compile_kernel, resources
from sparse_triton.kernels.attention import Form, attention_source

HEADS, TOKENS = 8, 256


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("D", [32, 64, 128])
@pytest.mark.parametrize("turned", [False, True])
def test_no_spills(turned: bool, D: int, arch: int) -> None:
    all_heads = HEADS * D
    form = (
        Form(all_heads * TOKENS, D * TOKENS, TOKENS, True)
        if turned
        else Form(all_heads * TOKENS, D, all_heads, False)
    )
    source = attention_source((1, HEADS, TOKENS, D), TOKENS, (form,) * 4, D**-0.5, arch)
    kernel = compile_kernel(source, arch)
    text = kernel.compiled.asm["ptx"]
    assert resources(kernel).spill_bytes == 0
    assert kernel.compiled.metadata.shared <= 48 * 1024
    assert text.count("ld.global.v4") >= text.count("ld.global") - 1  # queries may be too few
    assert text.count("mma.sync") >= 6 and ".tf32" in text
