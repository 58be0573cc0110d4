"""A layer of the demo: the product the library computes, and the dense call it stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparse_triton.call import Call
from sparse_triton.errors import FileFormatError
from sparse_triton.matrix import SparseMatrix
from sparse_triton.ops import linear, spmm

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """``call`` says what is multiplied by W, and how: ``spmm``, or ``linear`` if token-major."""

    name: str
    W: SparseMatrix
    call: Call

    @property
    def columns(self) -> int:
        X = self.call.X
        return X.shape[0] if self.call.token_major else X.shape[1]

    def sparse(self) -> Tensor:
        X, bias, residual, activation, token_major, *_ = self.call
        if token_major:
            return linear(X, self.W, bias, activation=activation)
        return spmm(self.W, X, bias=bias, residual=residual, activation=activation)

    def dense(self) -> Callable[[], Tensor]:
        """What one would write in PyTorch, for ReLU or no activation and no residual."""
        W, (X, bias, _, activation, token_major, *_) = self.W.to_dense(), self.call

        def product() -> Tensor:
            Y = torch.nn.functional.linear(X, W, bias) if token_major else torch.mm(W, X)
            return Y.relu_() if activation == "relu" else Y

        return product


def mobilenet(data: Path, device: torch.device) -> list[Layer]:
    """The pruned 1x1 convolutions of MobileNet V1 with their values; X is drawn (ReLU of normal).

    Reads ``data/values/mobilenet_v1_contraction_*.npz`` and the columns from ``problems.json``.
    """
    found = sorted((data / "values").glob("mobilenet_v1_contraction_*.npz"), key=_number)
    if not found:
        raise FileFormatError(
            f"{data} holds no values/mobilenet_v1_contraction_*.npz; name the data folder with "
            "--data, or leave it out (and SPARSE_TRITON_DATA unset) for a small trained network"
        )
    columns = _columns(data / "problems.json")
    draw = torch.Generator().manual_seed(0)
    layers = []
    for path in found:
        W = SparseMatrix.from_npz(path)
        if W.shape not in columns:
            raise FileFormatError(f"problems.json has no problem of {path.name}'s shape {W.shape}")
        X = torch.randn((W.shape[1], columns[W.shape]), generator=draw).relu()
        call = Call(X.to(device), None, None, None, False)
        layers.append(Layer(path.stem.removeprefix("mobilenet_v1_"), W.to(device), call))
    return layers


def _number(path: Path) -> int:
    return int(re.findall(r"\d+", path.stem)[-1])


def _columns(problems: Path) -> dict[tuple[int, int], int]:
    """N of each weight shape: layers of one shape work on one image size in this network."""
    try:
        listed = json.loads(problems.read_text())["spmm"]
        return {
            (p["M"], p["K"]): int(p["N"])
            for p in listed
            if any("mobilenet" in weight for weight in p["weights"].values())
        }
    except (ValueError, KeyError, TypeError) as e:
        raise FileFormatError(f"{problems} is not the list of problems: {e}") from e
