"""What implicit im2col means, written out: for references and tests only."""

from __future__ import annotations

import numpy as np

from sparse_triton.pattern import Float32
from sparse_triton.problem import ConvProblem, taps


def patches(problem: ConvProblem, X: Float32) -> Float32:
    """[K, P*Q]: what each column of W meets at each pixel of one image X [C, H, W]."""
    p, tap = problem, taps(problem)
    top, bottom, left, right = p.padding
    padded = np.pad(X, ((0, 0), (top, bottom), (left, right)))
    rows = np.arange(p.P) * p.stride[0] + (tap.r * p.dilation[0])[:, None]  # [K, P]
    columns = np.arange(p.Q) * p.stride[1] + (tap.s * p.dilation[1])[:, None]  # [K, Q]
    found = padded[tap.c[:, None, None], rows[:, :, None], columns[:, None, :]]
    return np.asarray(found.reshape(p.K, p.N))
