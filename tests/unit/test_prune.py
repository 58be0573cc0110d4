"""``prune_``: exact counts, masks that hold under any optimiser, 2:4, schedules, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparse_triton.errors import InputError
from sparse_triton.prune import Mask, cubic, prune_


def small_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)
    )


def zeros(layer: nn.Module) -> int:
    return int((layer.weight == 0).sum())


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from(["magnitude", "random"]),
)
def test_counts_are_exact_in_every_layer(M: int, K: int, sparsity: float, method: str) -> None:
    layer = nn.Linear(K, M)
    prune_(layer, sparsity, method)
    assert zeros(layer) == round(sparsity * M * K)


def test_magnitude_takes_the_smallest() -> None:
    layer = nn.Linear(30, 20)
    before = layer.weight.detach().clone()
    prune_(layer, 0.7)
    kept = layer.weight != 0
    assert torch.equal(layer.weight[kept], before[kept])
    assert before[~kept].abs().max() <= before[kept].abs().min()


def test_ties_and_zeros_do_not_change_the_count() -> None:
    layer = nn.Linear(10, 10)
    nn.init.constant_(layer.weight, 0.5)
    with torch.no_grad():
        layer.weight[:2] = 0
    prune_(layer, 0.35)
    assert zeros(layer) == 35


def test_global_magnitude_counts_over_all_layers() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7))
    with torch.no_grad():
        model[0].weight.mul_(10)
    total = 600 + 210
    pruning = prune_(model, 0.6, "global_magnitude")
    assert zeros(model[0]) + zeros(model[1]) == round(0.6 * total)
    assert zeros(model[1]) / 210 > zeros(model[0]) / 600
    assert pruning.sparsity == round(0.6 * total) / total


def test_random_is_drawn_with_the_seed() -> None:
    layers = [nn.Linear(16, 16) for _ in range(3)]
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        prune_(layer, 0.5, "random", seed=seed)
    first, again, other = ((layer.weight == 0) for layer in layers)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("layer", [nn.Linear(18, 5), nn.Conv2d(7, 6, 3), nn.Linear(16, 4)])
def test_two_of_every_four_inputs_remain(layer: nn.Module) -> None:
    before = layer.weight.detach().clone()
    prune_(layer, 0.5, "2:4")
    groups = layer.weight.movedim(1, -1).split(4, dim=-1)
    for group, old in zip(groups, before.movedim(1, -1).split(4, dim=-1), strict=True):
        kept = group != 0
        assert (kept.sum(-1) == min(2, group.shape[-1])).all()
        largest = old.abs().topk(min(2, group.shape[-1]), dim=-1).values.amin(-1)
        assert (old.abs()[kept].view(*kept.shape[:-1], -1).amin(-1) == largest).all()


def test_two_of_four_inputs_of_a_transposed_layer() -> None:
    class Conv1D(nn.Module):  # as transformers has it: weight [inputs, outputs]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 5))

    layer = Conv1D()
    prune_(layer, 0.5, "2:4")
    assert ((layer.weight != 0).unflatten(0, (2, 4)).sum(1) == 2).all()


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_masks_hold_under_an_optimiser_made_before_pruning(optimiser) -> None:  # type: ignore[no-untyped-def]
    model = small_model()
    steps = optimiser(model.parameters())
    x = torch.randn(4, 3, 6, 6)

    def train() -> None:
        steps.zero_grad()
        model(x).square().mean().backward()
        steps.step()

    train()  # momentum that would move every weight
    pruning = prune_(model, 0.8)
    zero = [layer.weight == 0 for layer in pruning.layers.values()]
    before = [layer.weight.detach().clone() for layer in pruning.layers.values()]
    for _ in range(3):
        train()
    for layer, pruned, old in zip(pruning.layers.values(), zero, before, strict=True):
        assert (layer.weight[pruned] == 0).all()
        assert not torch.equal(layer.weight, old), "the others do learn"
    permanent = pruning.make_permanent()
    assert permanent is model
    assert isinstance(model[0].weight, nn.Parameter)
    assert zeros(model[0]) == round(0.8 * model[0].weight.numel())


def test_nan_and_inf_under_a_mask_stay_hidden() -> None:
    layer = nn.Linear(4, 4)
    pruning = prune_(layer, 0.5)
    with torch.no_grad():
        layer.parametrizations.weight.original.masked_fill_(layer.weight == 0, float("nan"))
    assert layer.weight.isfinite().all()
    pruning.make_permanent()
    assert layer.weight.isfinite().all()


def test_a_schedule_only_ever_adds_zeros() -> None:
    model = small_model()
    pruning = prune_(model, 0.9, schedule=cubic(steps=10, begin=2, every=2))
    assert pruning.sparsity == 0.0
    shares, before = [], model[4].weight == 0
    for _ in range(14):
        with torch.no_grad():
            model[4].parametrizations.weight.original.add_(torch.randn(10, 128))
        shares.append(pruning.step())
        now = model[4].weight == 0
        assert (now | ~before).all(), "a pruned weight came back"
        before = now
    assert shares == sorted(shares) and shares[1] == 0.0 and shares[3] > 0.3
    assert zeros(model[4]) == round(0.9 * 1280)


def test_pruning_twice_keeps_the_first_zeros() -> None:
    layer = nn.Linear(20, 20)
    prune_(layer, 0.5, "random")
    first = layer.weight == 0
    prune_(layer, 0.8)
    assert (layer.weight == 0)[first].all() and zeros(layer) == 320
    assert sum(isinstance(p, Mask) for p in layer.parametrizations.weight) == 1


def test_which_layers() -> None:
    tied = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": tied, "c": nn.Linear(6, 6), "d": tied})
    model["c"].weight = model["b"].weight
    pruning = prune_(model, 0.5)
    assert list(pruning.layers) == ["a"], "b and c share one parameter"
    chosen = prune_(small_model(), 0.5, filter_fn=lambda name, layer: isinstance(layer, nn.Linear))
    assert list(chosen.layers) == ["4"]


def test_a_pruned_model_can_be_copied_moved_and_reloaded() -> None:
    model = small_model()
    prune_(model, 0.8)
    twin = copy.deepcopy(model).to(torch.bfloat16).float()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(twin.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.5}, r"share in \[0, 1\], got 1.5"),
        ({"sparsity": float("nan")}, "share in"),
        ({"sparsity": 0.5, "method": "best"}, "method must be one of magnitude"),
        ({"sparsity": 0.9, "method": "2:4"}, "use sparsity=0.5"),
        ({"sparsity": 0.5, "method": "2:4", "schedule": cubic(3)}, "with a schedule"),
        ({"sparsity": 0.5, "filter_fn": lambda name, layer: False}, "no Linear or convolution"),
    ],
)
def test_refusals(arguments, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words):
        prune_(small_model(), **arguments)


def test_masks_of_torch_are_named_with_the_remedy() -> None:
    layer = nn.Linear(4, 4)
    torch_prune.random_unstructured(layer, "weight", 0.5)
    with pytest.raises(InputError, match=r"prune\.remove"):
        prune_(layer, 0.5)


def test_cubic_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="steps and every must be positive"):
        cubic(0)
