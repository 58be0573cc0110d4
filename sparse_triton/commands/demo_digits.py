"""A small network of one's own: trained on scikit-learn's digits, pruned, fine-tuned, run sparse.

Source: magnitude pruning as in Han, Pool, Tran, Dally, Learning both Weights and Connections, 2015.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise

import torch
from tqdm.auto import tqdm

from sparse_triton.call import Call
from sparse_triton.commands.demo_layers import Layer
from sparse_triton.errors import InputError
from sparse_triton.matrix import SparseMatrix

Tensor = torch.Tensor
SPARSITY = 0.9
HIDDEN = 1024
EPOCHS, FINE_TUNE_EPOCHS = 12, 8
BATCH = 128
TEST_IMAGES = 360


@dataclass(frozen=True)
class Accuracy:
    """Shares of test images classified right; ``same`` counts equal answers, pruned and sparse."""

    dense: float
    pruned: float
    sparse: float
    same: int
    images: int

    def __str__(self) -> str:
        return (
            f"accuracy on {self.images} test images: dense {self.dense:.1%}, pruned to "
            f"{SPARSITY:.0%} zeros {self.pruned:.1%}, run sparse {self.sparse:.1%} "
            f"({self.same} of {self.images} answers equal to the pruned network's)"
        )


def pruned_network(device: torch.device) -> tuple[list[Layer], Accuracy]:
    """Train, prune and fine-tune on the CPU (seconds), then run the test images on ``device``."""
    images, labels = digits()
    train, test = slice(TEST_IMAGES, None), slice(0, TEST_IMAGES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = (images.shape[1], HIDDEN, HIDDEN, 10)
        net = [torch.nn.Linear(k, m) for k, m in pairwise(sizes)]
        _train(net, images[train], labels[train], EPOCHS, None, "train")
        dense = _share_right(_logits(net, images[test]), labels[test])
        masks = [_largest(layer.weight, 1 - SPARSITY) for layer in net]
        _train(net, images[train], labels[train], FINE_TUNE_EPOCHS, masks, "fine-tune")
    pruned = _logits(net, images[test])
    layers, sparse = _sparse(net, images[test].to(device))
    same = int((pruned.argmax(1) == sparse.argmax(1)).sum())
    right = [_share_right(logits, labels[test]) for logits in (pruned, sparse)]
    return layers, Accuracy(dense, right[0], right[1], same, TEST_IMAGES)


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64] in 0 … 1 and labels [1797], shuffled."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits come with scikit-learn: pip install 'sparse-triton[models]'; the demo also "
            "reads a folder of pruned layers: --data DIR"
        ) from None
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(images).float()[order] / 16, torch.from_numpy(labels).long()[order]


def _train(
    net: list[torch.nn.Linear], images: Tensor, labels: Tensor, epochs: int,
    masks: list[Tensor] | None, words: str,
) -> None:  # fmt: skip
    """Adam on cross entropy; with ``masks`` the pruned weights stay exactly zero."""
    optimiser = torch.optim.Adam([p for layer in net for p in layer.parameters()], lr=1e-3)
    for _ in tqdm(range(epochs), words, file=sys.stderr, leave=False):
        for batch in torch.randperm(len(images)).split(BATCH):
            _mask(net, masks)
            loss = torch.nn.functional.cross_entropy(_forward(net, images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    _mask(net, masks)


@torch.no_grad()
def _mask(net: list[torch.nn.Linear], masks: list[Tensor] | None) -> None:
    for layer, mask in zip(net, masks or [], strict=False):
        layer.weight.mul_(mask)


def _largest(weight: Tensor, share: float) -> Tensor:
    """1.0 at the ``share`` of weights that are largest in magnitude, else 0.0."""
    magnitude = weight.detach().abs().flatten()
    kept = magnitude.topk(round(share * magnitude.numel())).indices
    mask = torch.zeros_like(magnitude)
    mask[kept] = 1.0
    return mask.view_as(weight)


def _forward(net: list[torch.nn.Linear], x: Tensor) -> Tensor:
    for layer in net[:-1]:
        x = layer(x).relu()
    return net[-1](x)  # type: ignore[no-any-return]


@torch.no_grad()
def _logits(net: list[torch.nn.Linear], x: Tensor) -> Tensor:
    return _forward(net, x)


def _share_right(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


@torch.no_grad()
def _sparse(net: list[torch.nn.Linear], x: Tensor) -> tuple[list[Layer], Tensor]:
    """The layers with their real inputs, and the logits on the CPU."""
    layers = []
    for i, layer in enumerate(net):
        W = SparseMatrix.from_torch(layer.weight).to(x.device)
        activation = "relu" if i + 1 < len(net) else None
        call = Call(x, layer.bias.detach().to(x.device), None, activation, True)
        layers.append(Layer(f"fc{i + 1}", W, call))
        x = layers[-1].sparse()
    return layers, x.cpu()
