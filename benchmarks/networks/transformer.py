"""Six Transformer encoder layers (Vaswani et al. 2017, base size) with published pruned patterns.

Source of the patterns: as for ``resnet50``: magnitude pruning to 90 %; one pattern for each of
512 x 512, 2048 x 512 and 512 x 2048 is in the data, so every use of one has its rows and columns
shuffled anew: other weights with the same lengths of rows. Queries, keys and values are one layer
of 1536 outputs, which is the better form for dense and sparse alike.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks.weights import normal_values, pattern, set_weight

MODEL, HIDDEN, HEADS, LAYERS, TOKENS = 512, 2048, 8, 6, 256
FOLDER = Path("dlmc/transformer/magnitude_pruning/0.9")
ATTENTION = "body_decoder_layer_0_self_attention_multihead_attention_q_fully_connected.smtx"
FFN = "body_decoder_layer_0_ffn_conv{}_fully_connected.smtx"


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised.

    written_attention  products and softmax written out, in place of PyTorch's
                       ``scaled_dot_product_attention``: in float32 at these sizes they are faster
                       (17 against 29 us on an H100), in float16 they are not
    """

    written_attention = False

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(MODEL, 3 * MODEL)
        self.out = nn.Linear(MODEL, MODEL)
        self.norm1 = nn.LayerNorm(MODEL)
        self.ffn1 = nn.Linear(MODEL, HIDDEN)
        self.relu = nn.ReLU()
        self.ffn2 = nn.Linear(HIDDEN, MODEL)
        self.norm2 = nn.LayerNorm(MODEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x).unflatten(-1, (3, HEADS, MODEL // HEADS))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if self.written_attention:
            p = torch.softmax(q @ k.mT, -1)
            y = (v.mT @ p.mT).flatten(1, 2).mT  # nothing is copied
        else:
            y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.ffn2(self.relu(self.ffn1(x))))

    @torch.no_grad()
    def write_attention(self, written: bool) -> None:
        """The scale, a power of two, goes into what makes the queries, or out of it again."""
        if written != self.written_attention:
            scale = (MODEL // HEADS) ** -0.5
            for t in (self.qkv.weight, self.qkv.bias):
                t[:MODEL] *= scale if written else 1 / scale
            self.written_attention = written


def transformer(data: Path) -> nn.Sequential:
    """The pruned layers with normal values: tokens [B, 256, 512] to the same."""
    attention = pattern(data / FOLDER / ATTENTION)
    ffn1, ffn2 = (pattern(data / FOLDER / FFN.format(i)) for i in (1, 2))
    torch.manual_seed(0)
    model = nn.Sequential(*[EncoderLayer() for _ in range(LAYERS)])
    shuffle = torch.Generator().manual_seed(0)
    for seed, layer in enumerate(model):
        qkv = torch.cat([_shuffled(attention, shuffle) for _ in range(3)])
        patterns = (qkv, *(_shuffled(p, shuffle) for p in (attention, ffn1, ffn2)))
        for linear, keep in zip(
            (layer.qkv, layer.out, layer.ffn1, layer.ffn2), patterns, strict=True
        ):
            set_weight(linear, normal_values(keep, seed))
    return model.eval().requires_grad_(False)


def _shuffled(keep: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    rows, columns = (torch.randperm(n, generator=generator) for n in keep.shape)
    return keep[rows][:, columns]
