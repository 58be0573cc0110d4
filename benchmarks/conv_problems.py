"""The convolutions that are measured: layers of ResNet-50 and VGG-19, with their pruned filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.networks.vgg19 import STAGES
from benchmarks.problems import drawn
from sparse_triton import SparseFilter, SparseMatrix
from sparse_triton.geometry import Geometry, geometry_of
from sparse_triton.problem import ConvProblem, Epilogue, Pool

MAX_2x2 = Pool("max", (2, 2), (2, 2))


@dataclass(frozen=True)
class ConvLayer:
    """A 3x3 layer, padding 1, at one sparsity and batch.

    weight    file of the filter; None: drawn, its largest magnitudes kept
    count     times the network has a layer of this shape
    pool      max pool that follows convolution, bias and ReLU
    """

    name: str
    C: int
    size: int
    M: int
    sparsity: str
    weight: Path | None = None
    stride: int = 1
    count: int = 1
    batch: int = 1
    pool: Pool | None = None

    def load(self) -> SparseFilter:
        """The filter on the host. DLMC columns are in (r, s, c) order."""
        shape = (self.M, self.C, 3, 3)
        if self.weight is None:
            seed = self.C * 1000 + self.size
            matrix = drawn(self.M, self.C * 9, float(self.sparsity), seed)
        elif self.weight.suffix == ".npz":
            matrix = SparseMatrix.from_npz(self.weight)
        else:
            w = SparseMatrix.from_smtx(self.weight).to_dense()
            return SparseFilter.from_dense(w.view(self.M, 3, 3, self.C).permute(0, 3, 1, 2))
        return SparseFilter.from_matrix(matrix, shape)

    @property
    def geometry(self) -> Geometry:
        return geometry_of((3, 3), self.stride, 1, 1, 1, self.pool)

    def problem(self, nnz: int, bias: bool = False) -> ConvProblem:
        epilogue = Epilogue(bias=True, activation="relu") if bias else Epilogue()
        return ConvProblem(
            self.batch, self.C, self.size, self.size, self.M, 3, 3, nnz,
            stride=(self.stride, self.stride), padding=(1, 1, 1, 1), epilogue=epilogue,
            pool=self.pool,
        )  # fmt: skip


def conv_layers(
    folder: Path, sparsities: tuple[str, ...], batches: tuple[int, ...]
) -> Iterator[ConvLayer]:
    """The paper's four 3x3 layers of ResNet-50 (published patterns, and the published filters where
    there are values), its three layers of stride 2, the 16 of VGG-19."""
    for batch in batches:
        for sparsity in sparsities:
            for layer in (
                *_resnet(folder, sparsity),
                *_published(folder, sparsity),
                *_strided(folder, sparsity),
                *_vgg(sparsity),
            ):
                yield replace(layer, batch=batch)


def pool_layers(sparsities: tuple[str, ...], batches: tuple[int, ...]) -> Iterator[ConvLayer]:
    """The five layers of VGG-19 that a 2x2 max pool follows."""
    for batch in batches:
        for sparsity in sparsities:
            size = 224
            for channels, _ in STAGES:
                yield ConvLayer(
                    f"VGG-19 {channels}, {size}", channels, size, channels, sparsity, batch=batch,
                    pool=MAX_2x2,
                )  # fmt: skip
                size //= 2


def _resnet(folder: Path, sparsity: str) -> Iterator[ConvLayer]:
    for e in json.loads((folder / "problems.json").read_text())["conv3x3"]:
        yield ConvLayer(
            f"ResNet-50 {e['problem']}", e["C_in"], e["H"], e["C_out"], sparsity,
            folder / e["weights"][sparsity],
        )  # fmt: skip


def _published(folder: Path, sparsity: str) -> Iterator[ConvLayer]:
    for group, (channels, size) in enumerate(((64, 56), (128, 28), (256, 14)), start=1):
        file = folder / "values" / f"resnet50_3x3_group{group}_{sparsity[2:].ljust(2, '0')}.npz"
        if file.is_file():
            name = f"ResNet-50 {group}, published values"
            yield ConvLayer(name, channels, size, channels, sparsity, file)


def _strided(folder: Path, sparsity: str) -> Iterator[ConvLayer]:
    patterns = folder / "dlmc" / "rn50" / "magnitude_pruning" / sparsity
    for group, (channels, size) in enumerate(((128, 56), (256, 28), (512, 14)), start=2):
        file = patterns / f"bottleneck_2_block_group_projection_block_group{group}.smtx"
        name = f"ResNet-50 {channels}, stride 2"
        weight = file if file.is_file() else None
        yield ConvLayer(name, channels, size, channels, sparsity, weight, stride=2)


def _vgg(sparsity: str) -> Iterator[ConvLayer]:
    inputs, size = 3, 224
    for channels, convolutions in STAGES:
        first = ConvLayer(f"VGG-19 {channels}, {size}", inputs, size, channels, sparsity)
        same = inputs == channels
        if not same:
            yield replace(first, name=f"VGG-19 {inputs} to {channels}, {size}")
        count = convolutions - (not same)
        yield replace(first, C=channels, count=count)
        inputs, size = channels, size // 2
