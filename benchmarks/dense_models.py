"""Whole dense networks, each as fast as a user could run it: what ours is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.baselines import matmul_precision
from benchmarks.fast_linears import fastest_linears
from benchmarks.fused_models import fuse_relus
from benchmarks.limit import limited
from benchmarks.networks.transformer import EncoderLayer
from sparse_triton.nn import SparseModule

Forward = Callable[[], torch.Tensor]
BASELINE, PLAIN = "dense_fp32", "plain_fp32"
MODE = "max-autotune-no-cudagraphs"


def dense_calls(model: nn.Module, x: torch.Tensor) -> dict[str, Forward]:
    """Forward passes by name, BatchNorms folded; on a CPU float32 alone: the others are for tensor
    cores. On a GPU each Linear is its fastest call, and in float32 ReLUs are in the convolutions'
    calls: for the others cuDNN's search among fused kernels takes too long. Plain float32, at batch
    1, is the layers as PyTorch runs them.
    """
    folded = _folded(model, x)
    if not x.is_cuda:
        return {BASELINE: forward(folded, x)}
    wide = channels_last(copy.deepcopy(folded), x)
    plain = {PLAIN: forward(folded, x)} if len(x) == 1 else {}
    return plain | {
        BASELINE: _fastest(fuse_relus(folded), x),
        "dense_tf32": _fastest(*wide, tf32=True),
        "dense_fp16": _fastest(*_half(folded, x)),
    }


def _fastest(model: nn.Module, x: torch.Tensor, tf32: bool = False) -> Forward:
    with float32_precision(tf32), torch.inference_mode():
        return forward(fastest_linears(model, x), x, tf32)


def compiled_calls(
    model: nn.Module, x: torch.Tensor, seconds: float
) -> tuple[dict[str, Forward], dict[str, str]]:
    """Forward passes through ``torch.compile(mode="max-autotune")``, without its own CUDA graphs:
    every contestant is captured in the same way. And why one is left out: it was not compiled
    within ``seconds``, or not at all.
    """
    folded = _folded(model, x)
    contestants = {"compiled_fp32": (folded, x)}
    if x.is_cuda:
        contestants["compiled_fp16"] = _half(folded, x)
    calls, left_out = {}, {}
    for name, (network, inputs) in contestants.items():
        call = forward(torch.compile(network, mode=MODE), inputs)
        try:
            with limited(seconds) as limit:
                call()
        except Exception as e:  # whatever the compiler raises, or wraps the end of the time in
            words = f"{type(e).__name__}: {e}".partition("\n")[0][:200]
            left_out[name] = f"not compiled within {seconds:g} s" if limit.over else words
            torch.compiler.reset()
        else:
            calls[name] = call
    return calls, left_out


def search_space() -> dict[str, str]:
    """What ``torch.compile(mode="max-autotune")`` chooses from, by its environment variables."""
    from torch._inductor import config

    return {
        "products": config.max_autotune_gemm_backends,
        "convolutions": config.max_autotune_conv_backends,
    }


def _folded(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy with BatchNorms folded, and attention as it is fastest in float32."""
    return with_written_attention(fold_batch_norms_(copy.deepcopy(model)), x.is_cuda)


def _half(folded: nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    half = with_written_attention(copy.deepcopy(folded), False).half()
    return channels_last(half, x.half())


def forward(
    model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tf32: bool = False
) -> Forward:
    """One call of the model under the precision it is named after."""

    def call() -> torch.Tensor:
        with float32_precision(tf32), torch.inference_mode():
            return model(x)

    return call


@contextmanager
def library_convolutions(tf32: bool) -> Iterator[None]:
    """Convolutions of float32 in TF32 or not; cuDNN's best algorithm is looked up."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.benchmark
    cudnn.conv.fp32_precision, cudnn.benchmark = ("tf32" if tf32 else "ieee"), True
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark = before


@contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32 or not."""
    with library_convolutions(tf32), matmul_precision("high" if tf32 else "highest"):
        yield


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SparseModule) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms_(model: nn.Module) -> nn.Module:
    """Every BatchNorm that follows a dense convolution, folded into it in place."""
    modules = dict(model.named_modules())
    if not any(isinstance(m, nn.BatchNorm2d) for m in modules.values()):
        return model
    for node in _Tracer().trace(model).nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(norm, nn.BatchNorm2d) and node.args[0].op == "call_module":
            before = node.args[0]
            layer = modules[str(before.target)]
            if isinstance(layer, nn.Conv2d) and len(before.users) == 1:
                model.set_submodule(str(before.target), fuse_conv_bn_eval(layer, norm))
                model.set_submodule(str(node.target), nn.Identity())
    return model


def with_written_attention(model: nn.Module, written: bool) -> nn.Module:
    """The faster form for the precision, see ``networks.transformer``."""
    for module in model.modules():
        if isinstance(module, EncoderLayer):
            module.write_attention(written)
    return model


def channels_last(model: nn.Module, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """Model and input in the layout tensor cores want; token inputs stay as they are."""
    if x.ndim != 4:
        return model, x
    layout = torch.channels_last
    return model.to(memory_format=layout), x.contiguous(memory_format=layout)
