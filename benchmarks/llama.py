"""A stack of Llama-style blocks at decode time: pruned weights against the same ones dense, fp16.

A block is RMSNorm, attention with rotary positions over a full KV cache, and SwiGLU; q, k, v and
gate, up are one weight each, residuals are added by the product, as inference engines have it. Both
stacks run the same code but for the products, as CUDA graphs, in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from autotune.rotation import weight_bytes
from autotune.timing import interleaved, timer_for
from benchmarks.decode import pruned
from sparse_triton import SparseMatrix
from sparse_triton.call import Call
from sparse_triton.choose import choose
from sparse_triton.device import Device
from sparse_triton.executor import problem_of
from sparse_triton.plan import plan_spmm

Tensor = torch.Tensor
Row = dict[str, Any]
Linear = Callable[[Tensor, Tensor | None], Tensor]  # (x, residual) -> x @ W.T + residual
SPARSITIES = (0.5, 0.7, 0.9)
TOKENS = (1, 8, 16)
MAX_ERROR = 0.02  # norm-wise, of the stack's output: float16 through every block


@dataclass(frozen=True)
class Model:
    """Sizes of Llama 7B; ``context`` positions are in the KV cache, the current one included."""

    hidden: int = 4096
    intermediate: int = 11008
    heads: int = 32
    layers: int = 4
    context: int = 512

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    def shapes(self) -> dict[str, tuple[int, int]]:
        """[M, K] of the four weights of a block."""
        h, i = self.hidden, self.intermediate
        return {"qkv": (3 * h, h), "out": (h, h), "gate_up": (2 * i, h), "down": (h, i)}


def run(
    device: torch.device,
    model: Model = Model(),
    sparsities: tuple[float, ...] = SPARSITIES,
    tokens: tuple[int, ...] = TOKENS,
) -> list[Row]:
    """A row for each (sparsity, sequences decoded together)."""
    return [row for s in sparsities for row in _rows(model, s, tokens, device)]


def _rows(
    model: Model, sparsity: float, tokens: tuple[int, ...], device: torch.device
) -> Iterator[Row]:
    weights = [
        {
            name: pruned(M, K, sparsity, device, seed=10 * layer + i) / K**0.5
            for i, (name, (M, K)) in enumerate(model.shapes().items())
        }
        for layer in range(model.layers)
    ]
    dense = [{name: _dense(w) for name, w in block.items()} for block in weights]
    packed, packed_bytes = _packed(weights, tokens)
    dense_bytes = sum(w.numel() * w.element_size() for block in weights for w in block.values())
    for n in tokens:
        yield _row(model, sparsity, n, dense, packed[n], dense_bytes, packed_bytes[n], device)


def _row(
    model: Model, sparsity: float, tokens: int, dense: list[dict[str, Linear]],
    packed: list[dict[str, Linear]], dense_bytes: int, packed_bytes: int, device: torch.device,
) -> Row:  # fmt: skip
    x = torch.randn(tokens, model.hidden, device=device, dtype=torch.float16)
    stacks = [Stack(model, tokens, linears, device) for linears in (dense, packed)]
    want, got = (stack(x) for stack in stacks)
    error = float((got - want).float().norm() / want.float().norm())
    if not error <= MAX_ERROR:
        raise AssertionError(f"{sparsity:.0%} zeros, {tokens} tokens: error {error:.1e}")
    calls = [lambda s=s: s(x) for s in stacks]
    dense_us, us = (t.us for t in interleaved([timer_for(c, device) for c in calls], device.type))
    return {
        "sparsity": sparsity,
        "tokens": tokens,
        "layers": model.layers,
        "context": model.context,
        "us": round(us, 2),
        "dense_us": round(dense_us, 2),
        "tokens_per_s": round(1e6 * tokens / us, 1),
        "dense_tokens_per_s": round(1e6 * tokens / dense_us, 1),
        "speedup": round(dense_us / us, 4),
        "weight_bytes": packed_bytes,
        "dense_weight_bytes": dense_bytes,
        "error": error,
    }


class Stack:
    """The blocks with their KV cache; a call decodes one token of every sequence."""

    def __init__(
        self, model: Model, tokens: int, linears: list[dict[str, Linear]], device: torch.device
    ) -> None:
        self.model, self.linears = model, linears
        draw = torch.Generator(device=device).manual_seed(1)
        shape = (model.layers, 2, tokens, model.heads, model.context, model.head)
        self.cache = torch.randn(shape, device=device, generator=draw, dtype=torch.float32).half()
        self.norm = torch.ones(model.hidden, device=device, dtype=torch.float16)
        half = torch.arange(0, model.head, 2, device=device) / model.head
        angle = (model.context - 1) * 10000.0**-half
        self.cos = angle.cos().repeat(2).half()
        self.sin = torch.cat([-angle.sin(), angle.sin()]).half()

    def __call__(self, x: Tensor) -> Tensor:
        for cache, block in zip(self.cache, self.linears, strict=True):
            x = block["out"](self._attend(cache, block["qkv"](self._normed(x), None)), x)
            gate, up = block["gate_up"](self._normed(x), None).chunk(2, dim=-1)
            x = block["down"](silu(gate) * up, x)
        return x

    def _normed(self, x: Tensor) -> Tensor:
        return rms_norm(x, (self.model.hidden,), self.norm)

    def _attend(self, cache: Tensor, qkv: Tensor) -> Tensor:
        """[tokens, hidden]; the current position's k and v go into the cache's last place."""
        model = self.model
        q, k, v = qkv.view(len(qkv), 3, model.heads, model.head).unbind(1)
        cache[0, :, :, -1], cache[1, :, :, -1] = self._turned(k), v
        y = scaled_dot_product_attention(self._turned(q)[:, :, None], cache[0], cache[1])
        return y.reshape(len(qkv), model.hidden)

    def _turned(self, x: Tensor) -> Tensor:
        return x * self.cos + x.roll(self.model.head // 2, dims=-1) * self.sin


def _dense(w: Tensor) -> Linear:
    wT = w.mT

    def linear(x: Tensor, residual: Tensor | None) -> Tensor:
        return torch.mm(x, wT) if residual is None else torch.addmm(residual, x, wT)

    return linear


def _packed(
    weights: list[dict[str, Tensor]], tokens: tuple[int, ...]
) -> tuple[dict[int, list[dict[str, Linear]]], dict[int, int]]:
    """For each number of tokens, what ``linear`` would launch; the bytes these weights take."""
    linears: dict[int, list[dict[str, Linear]]] = {n: [{} for _ in weights] for n in tokens}
    sizes = dict.fromkeys(tokens, 0)
    for layer, block in enumerate(weights):
        for name, w in block.items():
            W = SparseMatrix.from_dense(w)
            for n in tokens:
                residual = name in ("out", "down")
                linears[n][layer][name], nbytes = _linear(W, n, residual)
                sizes[n] += nbytes
    return linears, sizes


def _linear(W: SparseMatrix, tokens: int, with_residual: bool) -> tuple[Linear, int]:
    M, K = W.shape
    x = torch.zeros(tokens, K, device=W.device, dtype=W.dtype)
    y = torch.zeros(tokens, M, device=W.device, dtype=W.dtype) if with_residual else None
    call = Call(x, None, y, None, True)
    problem, facts = problem_of(W, call), Device.of(x.device)
    config = choose(problem, W.pattern_hash, facts).config
    plan = plan_spmm(problem, config, W.csr, facts)
    kernel = plan.family.build(plan)
    launch = call.launcher(kernel.bind(x.device), M)

    def linear(x: Tensor, residual: Tensor | None) -> Tensor:
        return launch(Call(x, None, residual, None, True), None)

    return linear, weight_bytes(kernel, problem)


def table(rows: list[Row]) -> str:
    lines = [
        "| zeros | sequences | dense tokens/s | sparse tokens/s | × | dense weights | sparse |",
        "|" + " --- |" * 7,
    ]
    lines += [
        f"| {r['sparsity']:.0%} | {r['tokens']} | {r['dense_tokens_per_s']:.0f} | "
        f"{r['tokens_per_s']:.0f} | {r['speedup']:.2f} | {r['dense_weight_bytes'] / 1e9:.2f} GB | "
        f"{r['weight_bytes'] / 1e9:.2f} GB |"
        for r in rows
    ]
    head = f"{rows[0]['layers']} blocks, {rows[0]['context']} positions in the KV cache.\n\n"
    return head + "\n".join(lines)
