"""Dense networks whose Linear layers are the fastest library calls: the same network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import fast_linears
from benchmarks.fast_linears import FastestLinear, fastest_linears, forms_of


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 24), nn.Linear(24, 16, bias=False), nn.Linear(16, 8)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(self.relu(self.a(x)))) + x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@torch.no_grad()
def test_every_form_is_the_layer(relu: bool, bias: bool) -> None:
    layer, x = nn.Linear(16, 24, bias=bias), torch.randn(2, 24, 16).mT.contiguous().mT
    expected = torch.relu(layer(x)) if relu else layer(x)
    forms = dict(forms_of(layer, relu))
    assert len(forms) == (2 if not bias else 6 if relu else 4)
    for form in forms.values():
        torch.testing.assert_close(form(x), expected)


@torch.no_grad()
def test_layers_alike_are_measured_once_and_the_model_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(Network(), nn.Linear(8, 16), Network()).eval()
    x, measured = torch.randn(3, 5, 16), []
    monkeypatch.setattr(
        fast_linears, "_us", lambda form, x: measured.append(form) or float(-len(measured))
    )
    fast = fastest_linears(model, x)
    torch.testing.assert_close(fast(x), model(x))
    forms = [m.form for m in fast.modules() if isinstance(m, FastestLinear)]
    assert len(forms) == 7 and len(measured) == 6 + 2 + 4 + 4
    assert forms[0] == forms[4] == "turned weight, with ReLU"  # the last, as they are measured here
    assert "relu" not in fast.code
    assert not any(isinstance(m, FastestLinear) for m in model.modules())


def test_a_model_without_linears_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert fastest_linears(model, torch.randn(1, 3, 2, 2)) is model
