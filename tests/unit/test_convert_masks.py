"""Conversion reads the zeros however they are given."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from sparse_triton import densify_, prune_, sparsify, sparsify_
from sparse_triton.nn import SparseLinear
from tests.support import same_bits


class Half(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(w.shape[-1]) % 4 == 0, w, 0.0)


def by_prune(layer: nn.Linear) -> None:
    prune.random_unstructured(layer, "weight", 0.75)
    prune.random_unstructured(layer, "bias", 0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(2)  # layer.weight is stale until the next forward


def by_sparse_tensor(layer: nn.Linear) -> None:
    masked = layer.weight.detach() * (torch.rand(layer.weight.shape) < 0.2)
    layer.weight = nn.Parameter(masked.to_sparse_csr())


GIVEN: dict[str, tuple[Callable[[nn.Linear], Any], str]] = {
    "torch.nn.utils.prune": (by_prune, "zeros by torch.nn.utils.prune"),
    "parametrize": (
        lambda m: parametrize.register_parametrization(m, "weight", Half()),
        "zeros by parametrization Half",
    ),
    "prune_": (lambda m: prune_(nn.Sequential(m), 0.8), "zeros by parametrization Mask"),
    "sparse_csr": (by_sparse_tensor, "zeros by sparse_csr"),
}


@pytest.mark.parametrize("how", GIVEN)
def test_masks(how: str) -> None:
    model, X = nn.Sequential(nn.Linear(16, 32), nn.ReLU()).eval(), torch.randn(3, 16)
    GIVEN[how][0](model[0])
    with torch.no_grad():
        want = model(X)
        before = dict(model.state_dict())
        sparse, report = sparsify(model)
        assert report["0"].decision == "sparse" and GIVEN[how][1] in report["0"].reason
        assert 0.7 < report["0"].sparsity < 0.9
        torch.testing.assert_close(sparse(X), want)
        copied = copy.deepcopy(sparse)
        densify_(copied)
        assert list(copied.state_dict()) == list(before)
        assert type(copied[0]) is type(model[0])
        weights = (m[0].weight for m in (copied, model))
        assert len({w.layout for w in weights}) == 1
        assert torch.equal(copied(X), want)
        unpickled = pickle.loads(pickle.dumps(sparse))
        assert torch.equal(unpickled(X), sparse(X))
        densify_(unpickled)
        torch.testing.assert_close(unpickled(X), want)


def test_conv1d_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight is the transpose of a Linear's; transformers itself is not needed."""

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.randn(16, 32) * (torch.rand(16, 32) < 0.1)
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.randn(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x.view(-1, 16), self.weight).view(*x.shape[:-1], 32)

    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    model, X = nn.Sequential(Conv1D()), torch.randn(2, 3, 16)
    before, want = dict(model.state_dict()), model(X)
    assert sparsify_(model)["0"].layer == "Conv1D"
    assert isinstance(model[0], SparseLinear) and model[0].out_features == 32
    torch.testing.assert_close(model(X), want)
    densify_(model)
    assert type(model[0]) is Conv1D and same_bits(before, model.state_dict())
