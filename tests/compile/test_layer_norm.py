"""The normalisation compiles everywhere without spills, and moves 16 bytes at a time."""

from __future__ import annotations

import pytest

from sparse_triton.build import compile_kernel, resources
from sparse_triton.kernels.layer_norm import MOST_FEATURES, layer_norm_source


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("K", [48, 512, MOST_FEATURES])
@pytest.mark.parametrize("feature_major", [False, True])
def test_no_spills(feature_major: bool, K: int, arch: int) -> None:
    source = layer_norm_source(256, K, feature_major, "float32", 1e-5, True, True, arch)
    kernel = compile_kernel(source, arch)
    assert resources(kernel).spill_bytes == 0
    if K == 512:
        text = kernel.compiled.asm["ptx"]
        assert "ld.global.v4" in text and "st.global.v4" in text
