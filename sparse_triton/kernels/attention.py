"""Attention in float32 on tensor cores, whose operands and result have either memory format."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from sparse_triton.build import KernelSource
from sparse_triton.config import ceil_div
from sparse_triton.kernels.columns import has_dependent_launch
from sparse_triton.kernels.tf32x3.kernel import upper_half

BLOCK, WARPS = 16, 8
KEYS = {32: 128, 64: 128, 128: 64}  # at a time, by features of a head
LOG2_E = 1.4426950408889634


class Form(NamedTuple):
    """Where element (b, h, n, d) of a tensor lies: ``b * batch + h * head``, and, of n and d, one
    adjacent and the other ``step`` apart; all in elements."""

    batch: int
    head: int
    step: int
    token_adjacent: bool


@triton.jit
def attend(  # type: ignore[no-untyped-def]
    x, y, bias, residual, anchor, N, N_KEYS, x_batch, x_head, x_step, y_batch, y_head, y_step,
    k_batch, k_head, k_step, v_batch, v_head, v_step,
    X_TURNED: tl.constexpr, Y_TURNED: tl.constexpr, K_TURNED: tl.constexpr, V_TURNED: tl.constexpr,
    FACTOR: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_h, i_b = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    o_n, o_d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    o_k = tl.arange(0, KEYS)
    inside = (o_n < N)[:, None]
    p_x = x + i_b * x_batch + i_h * x_head + places(o_n[:, None], o_d[None, :], x_step, X_TURNED)
    queries = tl.load(p_x, mask=inside, other=0.0) * FACTOR  # [BLOCK, D]
    p_k = bias + i_b * k_batch + i_h * k_head + places(o_k[None, :], o_d[:, None], k_step, K_TURNED)
    p_v = residual + i_b * v_batch + i_h * v_head
    p_v += places(o_k[:, None], o_d[None, :], v_step, V_TURNED)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, D], tl.float32)
    for i in tl.range(0, N_KEYS, KEYS, num_stages=1):
        there = o_k < N_KEYS - i
        keys = tl.load(p_k + i * (1 if K_TURNED else k_step), mask=there[None, :], other=0.0)
        values = tl.load(p_v + i * (1 if V_TURNED else v_step), mask=there[:, None], other=0.0)
        scores = accurate_dot(queries, keys, tl.zeros([BLOCK, KEYS], tl.float32))
        scores = tl.where(there[None, :], scores, float("-inf"))
        above = tl.maximum(most, tl.max(scores, 1))
        shares = tl.exp2(scores - above[:, None])  # [BLOCK, KEYS]
        fade = tl.exp2(most - above)
        total = total * fade + tl.sum(shares, 1)
        acc = accurate_dot(shares, values, acc * fade[:, None])
        most = above
    p_y = y + i_b * y_batch + i_h * y_head + places(o_n[:, None], o_d[None, :], y_step, Y_TURNED)
    tl.store(p_y, acc / total[:, None], mask=inside)


@triton.jit
def places(n, d, step, TURNED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of tokens n and features d, in a head."""
    return n + d * step if TURNED else n * step + d


@triton.jit
def accurate_dot(a, b, acc):  # type: ignore[no-untyped-def]
    """acc + a @ b in three products of TF32, see ``tf32x3``."""
    a_high, b_high = upper_half(a), upper_half(b)
    acc = tl.dot(a - a_high, b_high, acc, input_precision="tf32")
    acc = tl.dot(a_high, b - b_high, acc, input_precision="tf32")
    return tl.dot(a_high, b_high, acc, input_precision="tf32")


def attention_source(
    shape: tuple[int, int, int, int], keys: int, forms: tuple[Form, Form, Form, Form],
    scale: float, arch: int, naive: bool = False,
) -> KernelSource:  # fmt: skip
    """Kernel ``y = softmax(scale * q k^T) v`` of each head.

    Shapes   q and y [batch, heads, tokens, D] (``shape``), k and v [batch, heads, keys, D], all
             float32; D is 32, 64 or 128; ``forms`` are those of q, k, v and y. k goes in as the
             launch's ``bias``, v as its ``residual``.
    Grid     tiles of ``BLOCK`` tokens x heads x batch.
    Program  keys ``KEYS`` at a time, not loaded ahead: shared memory of more than 48 KB would cost
             the kernels after it their L1 cache. Shares are relative to the largest score so far.
    Cost     3 * 4 * tokens * keys * D * heads * batch flop on tensor cores; k and v are read once a
             tile of tokens.
    Error    with e = gamma(5 D + 13) * max over keys of scale * |q| |k| + 2**-21 (1 + max |score|):
             |y - y64| <= (exp(2 e) - 1 + gamma(6 keys + 32)) * share @ |v|.
    Repeat   same input: same bits (no atomics).
    Source   Dao et al., FlashAttention, NeurIPS 2022; split products as in ``tf32x3``.

    ``naive`` leaves out what the interpreter cannot run: the waiting of a dependent launch.
    """
    batch, heads, tokens, features = shape
    dependent = has_dependent_launch(arch) and not naive
    q, k, v, y = forms
    steps = {
        f"{name}_{field}": getattr(form, field)
        for name, form in (("x", q), ("y", y), ("k", k), ("v", v))
        for field in ("batch", "head", "step")
    }
    return KernelSource(
        fn=attend,
        constants={
            "X_TURNED": q.token_adjacent,
            "Y_TURNED": y.token_adjacent,
            "K_TURNED": k.token_adjacent,
            "V_TURNED": v.token_adjacent,
            "FACTOR": scale * LOG2_E,
            "D": features,
            "BLOCK": BLOCK,
            "KEYS": KEYS[features],
            "DEPENDENT": dependent,
            "HAS_BIAS": True,
            "HAS_RESIDUAL": True,
        },
        x_dtype="float32",
        arrays={"anchor": np.zeros(1, np.int32)},  # a launch takes its device from an array
        scalars={"N": tokens, "N_KEYS": keys, **steps},
        grid=(ceil_div(tokens, BLOCK), heads, batch),
        num_warps=WARPS,
        options={"launch_pdl": dependent},
        bias_aligned=True,
    )
