"""``FormattedLayerNorm``: ``torch.nn.LayerNorm`` between sparse layers, in either memory format."""

from __future__ import annotations

import functools
import math

import torch

from sparse_triton.call import empty_feature_major, features_first, is_feature_major
from sparse_triton.device import Device, refuse_capture
from sparse_triton.eager import is_plain
from sparse_triton.kernel import Run
from sparse_triton.matrix import FLOAT_DTYPES
from sparse_triton.tensors import ALIGNMENT

Tensor = torch.Tensor


class FormattedLayerNorm(torch.nn.LayerNorm):
    """Over the last dimension alone; X [..., K] contiguous or feature-major, the result as told.

    On a GPU and without gradients one kernel normalises and turns the result; a feature-major X is
    turned before by another. Elsewhere PyTorch does it all.

    feature_major  the result's format, see ``sparse_triton.linear``

    >>> norm = FormattedLayerNorm(4)
    >>> norm.feature_major = True
    >>> norm(torch.ones(3, 4)).stride()
    (1, 3)
    """

    feature_major = False

    def extra_repr(self) -> str:
        return super().extra_repr() + (", feature-major" if self.feature_major else "")

    def forward(self, X: Tensor) -> Tensor:
        if X.is_cuda and is_plain(X, self.bias, self.weight) and self._fits(X):
            return self._launch(X)
        Y = super().forward(X)
        return features_first(Y).contiguous().movedim(0, -1) if self.feature_major else Y

    def _fits(self, X: Tensor) -> bool:
        """Whether the kernel takes it."""
        from sparse_triton.kernels.layer_norm import MOST_FEATURES

        operands = [t for t in (X, self.weight, self.bias) if t is not None]
        return (
            X.dtype in FLOAT_DTYPES
            and X.shape[-1:] == self.normalized_shape
            and X.shape[-1] <= MOST_FEATURES
            and X.numel() > 0
            and (X.is_contiguous() or is_feature_major(X))
            and all(t.dtype == X.dtype and t.device == X.device for t in operands)
            and all(t.data_ptr() % ALIGNMENT == 0 for t in operands)
        )

    def _launch(self, X: Tensor) -> Tensor:
        run = _kernel(
            math.prod(X.shape[:-1]), X.shape[-1], is_feature_major(X), self.feature_major,
            X.dtype, self.eps, self.weight is not None, self.bias is not None, X.device,
        )  # fmt: skip
        Y = empty_feature_major(X, X.shape) if self.feature_major else X.new_empty(X.shape)
        run(X, Y, self.bias, self.weight)
        return Y


@functools.lru_cache(maxsize=256)
def _kernel(
    N: int, K: int, x_feature_major: bool, y_feature_major: bool, dtype: torch.dtype, eps: float,
    has_gain: bool, has_bias: bool, device: torch.device,
) -> Run:  # fmt: skip
    from sparse_triton.build import compile_kernel
    from sparse_triton.kernels.layer_norm import layer_norm_source
    from sparse_triton.kernels.turned.kernel import turn_source

    refuse_capture(device, "this normalisation was never made before")
    arch = Device.of(device).arch
    x_dtype = str(dtype).removeprefix("torch.")
    source = layer_norm_source(N, K, y_feature_major, x_dtype, eps, has_gain, has_bias, arch)
    normalise = compile_kernel(source, arch).bind(device)
    if not x_feature_major:
        return normalise
    turn = compile_kernel(turn_source(K, N, 1, x_dtype, arch), arch).bind(device)

    def run(X: Tensor, Y: Tensor, bias: Tensor | None, gain: Tensor | None) -> None:
        tokens = X.new_empty((N, K))
        turn(X, tokens, None, None)
        normalise(tokens, Y, bias, gain)

    return run
