"""A convolutional network from training to sparse inference, in seconds, offline.

    python -m examples.digits_cnn

Trains on scikit-learn's digits (1797 images of 8x8), prunes every layer to 90 % zeros while it goes
on training, converts the network, and compares: the same answers, a smaller file, the times.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import sparse_triton as st
from sparse_triton.commands.demo_digits import TEST_IMAGES, digits
from sparse_triton.commands.timing import interleaved_us
from sparse_triton.prune import cubic

SPARSITY, BATCH = 0.9, 128
EPOCHS, PRUNING_EPOCHS = 6, 10


@dataclass(frozen=True)
class Result:
    """Shares of test images classified right, equal answers, file sizes, µs a call by batch."""

    dense: float
    pruned: float
    sparse: float
    same_answers: int
    dense_bytes: int
    sparse_bytes: int
    us: dict[int, tuple[float, float]]
    report: str

    def __str__(self) -> str:
        lines = [
            self.report,
            "",
            f"accuracy on {TEST_IMAGES} test images: dense {self.dense:.2%}, {SPARSITY:.0%} pruned "
            f"{self.pruned:.2%}, converted {self.sparse:.2%} ({self.same_answers} of {TEST_IMAGES} "
            "answers equal)",
            f"file: {self.dense_bytes} -> {self.sparse_bytes} bytes "
            f"({self.sparse_bytes / self.dense_bytes:.1%})",
            "",
            f"{'images a call':>13}  {'dense us':>9}  {'sparse us':>9}  {'times':>5}",
        ]
        for batch, (dense, sparse) in self.us.items():
            lines.append(f"{batch:13}  {dense:9.1f}  {sparse:9.1f}  {dense / sparse:5.2f}")
        return "\n".join(lines)


def network() -> nn.Sequential:
    """x [B, 1, 8, 8] to logits [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip


def run(device: torch.device) -> Result:
    """Train and prune on the CPU, then run the test images on ``device``."""
    images, labels = digits()
    images = images.view(-1, 1, 8, 8)
    test_images, test_labels = images[:TEST_IMAGES], labels[:TEST_IMAGES]
    train_images, train_labels = images[TEST_IMAGES:], labels[TEST_IMAGES:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
        train(model, train_images, train_labels, EPOCHS)
        dense_right = accuracy(answers(model, test_images), test_labels)
        steps = PRUNING_EPOCHS * -(-len(train_images) // BATCH)
        pruning = st.prune_(model, SPARSITY, schedule=cubic(steps // 2, every=5))
        train(model, train_images, train_labels, PRUNING_EPOCHS, pruning)
        pruning.make_permanent()

    model.eval().requires_grad_(False).to(device)
    test_images = test_images.to(device)
    sparse = copy.deepcopy(model)
    report = st.sparsify_(sparse, example_inputs=test_images)
    before, after = answers(model, test_images), answers(sparse, test_images)
    with tempfile.TemporaryDirectory() as folder:
        saved = st.save(sparse, Path(folder) / "digits.safetensors")
    return Result(
        dense_right,
        accuracy(before, test_labels),
        accuracy(after, test_labels),
        int((before == after).sum()),
        sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        saved.bytes,
        {n: times(model, sparse, test_images[:n]) for n in (1, TEST_IMAGES)},
        str(report),
    )


def train(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    pruning: st.prune.Pruning | None = None,
) -> None:
    """Adam on cross entropy; ``pruning`` takes a step after each of the optimiser's."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if pruning is not None:
                pruning.step()


@torch.no_grad()
def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.eval()(images).argmax(1).cpu()


def accuracy(found: torch.Tensor, labels: torch.Tensor) -> float:
    return float((found == labels).float().mean())


@torch.no_grad()
def times(dense: nn.Module, sparse: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Microseconds of one call, dense and sparse, measured in turns."""
    calls = [lambda: dense(images), lambda: sparse(images)]
    dense_us, sparse_us = interleaved_us(calls, images.device)
    return dense_us, sparse_us


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, help="where to run the network (%(default)s)")
    print(run(torch.device(parser.parse_args().device)))


if __name__ == "__main__":
    main()
