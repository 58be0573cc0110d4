"""The convolutions that ``selftest`` runs: the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from sparse_triton.commands.selftest_cases import DTYPES, EPILOGUES
from sparse_triton.conv_call import FORMATS, ConvCall
from sparse_triton.filter import SparseFilter
from sparse_triton.geometry import Geometry, geometry_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.problem import Pool

# Geometry, groups of C = 8 channels, rows and columns of the image.
IMAGES: tuple[tuple[Geometry, int, int], ...] = (
    (geometry_of((3, 3), 1, 1, 1, 1), 14, 14),
    (geometry_of((3, 3), 2, 1, 1, 1), 13, 9),
    (geometry_of((5, 2), (1, 3), (2, 0), 1, 2), 11, 17),
    (geometry_of((3, 3), 1, "same", 2, 1), 8, 31),
    (geometry_of((7, 7), 1, 3, 1, 1), 1, 1),
    (geometry_of((3, 3), 1, 1, 1, 1, Pool("max", (2, 2), (2, 2))), 14, 14),
    (geometry_of((3, 3), 1, 1, 1, 4, Pool("avg", (3, 3), (2, 2), (1, 1))), 12, 15),
)
C, M = 8, 24


def conv_cases(device: torch.device) -> Iterator[tuple[SparseMatrix, ConvCall, str]]:
    """All dtypes x layouts x epilogues, each on one of the images in turn."""
    draw = torch.Generator().manual_seed(0)
    for i, (dtype, layout, epilogue) in enumerate(product(DTYPES, FORMATS, EPILOGUES)):
        geometry, H, W = IMAGES[i % len(IMAGES)]
        has_bias, has_residual, activation = epilogue
        shape = (M, C // geometry.groups, *geometry.kernel)
        w = torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < 0.2)
        prepared = SparseFilter.from_dense(w.to(dtype), geometry.groups)

        def drawn(*shape: int, dtype: torch.dtype = dtype, layout: str = layout) -> torch.Tensor:
            t = torch.randn(shape, generator=draw).to(device, dtype)
            return t.contiguous(memory_format=FORMATS[layout]) if t.ndim == 4 else t

        call = ConvCall(
            drawn(2, C, H, W),
            drawn(M) if has_bias else None,
            drawn(2, M, *geometry.conv_size(H, W)) if has_residual else None,
            activation,
            geometry,
        )
        words = f"{H}x{W} {dtype} {layout}, {geometry}, bias/residual/activation {epilogue}"
        yield prepared.matrix.to(device), call, words.replace("torch.", "")
