"""``attention`` where PyTorch does it: values, gradients, compilation; what its kernel takes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sparse_triton.nn.attention import _fits, _is_dense, attention

TOKENS = torch.randn(2, 12, 3 * 64, generator=torch.Generator().manual_seed(0))


def heads(feature_major: bool) -> tuple[torch.Tensor, ...]:
    x = TOKENS.movedim(-1, 0).contiguous().movedim(0, -1) if feature_major else TOKENS
    return x.unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4).unbind(0)


@pytest.mark.parametrize("feature_major", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_pytorchs(feature_major: bool, scale: float | None) -> None:
    q, k, v = heads(feature_major)
    expected = scaled_dot_product_attention(*heads(False), scale=scale)
    torch.testing.assert_close(attention(q, k, v, scale), expected)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, scale), expected)
    q = q.detach().requires_grad_()
    attention(q, k, v, scale).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_rows_that_begin_at_16_bytes() -> None:
    assert all(_is_dense(t) for turned in (False, True) for t in heads(turned))
    odd = torch.randn(1, 2, 32, 5).mT  # tokens adjacent, 5 of them
    assert not _is_dense(odd) and not _is_dense(TOKENS[None, :, :, ::2])
    q, k, v = heads(False)
    assert not _fits(q, k[..., :16], v) and not _fits(q.half(), k.half(), v.half())
