"""``attention``: ``scaled_dot_product_attention`` between sparse layers, in either format."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from sparse_triton.device import Device, refuse_capture
from sparse_triton.eager import is_plain
from sparse_triton.kernel import Run
from sparse_triton.tensors import ALIGNMENT

if TYPE_CHECKING:
    from sparse_triton.kernels.attention import Form

Tensor = torch.Tensor
FEATURES = (32, 64, 128)
MOST_KEYS = 1024  # as far as it was measured
FIRST_ARCH = 80  # with TF32


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """``softmax(scale * q @ k.mT) @ v`` of each head; ``scale`` is ``D ** -0.5`` if not given.

    Shapes  q [batch, heads, tokens, D], k and v [batch, heads, keys, D], as PyTorch's
            ``scaled_dot_product_attention``, which does it all but float32 on a GPU without
            gradients: there one kernel reads any of the usual strides and writes the format that q
            has, so that neither the layer before nor the one after turns anything.
    Error   see ``sparse_triton.kernels.attention.attention_source``: near that of float32 products.

    >>> import torch
    >>> q = torch.zeros(1, 1, 2, 4)
    >>> attention(q, q, torch.arange(8.0).view(1, 1, 2, 4))[0, 0, 0]
    tensor([2., 3., 4., 5.])
    """
    if has_torch_function((q, k, v)):
        out: Tensor = handle_torch_function(attention, (q, k, v), q, k, v, scale=scale)
        return out
    if q.is_cuda and is_plain(q, k, v) and _fits(q, k, v):
        return _launch(q, k, v, scale)
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, scale=scale)


def _fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes it."""
    if any(t.dtype != torch.float32 or t.ndim != 4 or t.device != q.device for t in (q, k, v)):
        return False
    batch, heads, _, features = q.shape
    return (
        k.shape == v.shape
        and k.shape[:2] == (batch, heads)
        and k.shape[3] == features
        and features in FEATURES
        and 0 < k.shape[2] <= MOST_KEYS
        and q.numel() > 0
        and all(_is_dense(t) for t in (q, k, v))
        and Device.of(q.device).arch >= FIRST_ARCH
    )


def _is_dense(t: Tensor) -> bool:
    """Whether tokens or features are adjacent, and every row of them begins at 16 bytes."""
    *others, token, feature = t.stride()
    step = feature if token == 1 else token
    aligned = t.data_ptr() % ALIGNMENT == 0 and all(s % 4 == 0 for s in (*others, step))
    return aligned and 1 in (token, feature)


def _launch(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    batch, heads, tokens, features = q.shape
    if q.stride(2) == 1:
        y = q.new_empty((heads, features, batch, tokens)).permute(2, 0, 3, 1)
    else:
        y = q.new_empty((batch, tokens, heads, features)).transpose(1, 2)
    strides = (q.stride(), k.stride(), v.stride(), y.stride())
    run = _kernel(tuple(q.shape), k.shape[2], strides, scale, q.device)
    run(q, y, k, v)
    return y


@functools.lru_cache(maxsize=256)
def _kernel(
    shape: tuple[int, int, int, int], keys: int, strides: tuple[tuple[int, ...], ...],
    scale: float | None, device: torch.device,
) -> Run:  # fmt: skip
    from sparse_triton.build import compile_kernel
    from sparse_triton.kernels.attention import attention_source

    refuse_capture(device, "this attention was never computed before")
    arch = Device.of(device).arch
    q, k, v, y = (_form(s) for s in strides)
    factor = shape[3] ** -0.5 if scale is None else scale
    source = attention_source(shape, keys, (q, k, v, y), factor, arch)
    return compile_kernel(source, arch).bind(device)


def _form(strides: tuple[int, ...]) -> Form:
    from sparse_triton.kernels.attention import Form

    batch, head, token, feature = strides
    turned = token == 1
    return Form(batch, head, feature if turned else token, turned)
