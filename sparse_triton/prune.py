"""``prune_``: standard pruning for experiments and tests, with masks that hold in fine-tuning.

A mask is a parametrization (``torch.nn.utils.parametrize``): ``layer.weight`` is at all times the
stored parameter with zeros where the mask says so, whatever optimiser, momentum or weight decay
moves the parameter. Source: Han, Pool, Tran, Dally, Learning both Weights and Connections for
Efficient Neural Networks, 2015; gradual pruning: Zhu, Gupta, To prune, or not to prune, 2017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparse_triton.errors import InputError

METHODS = ("magnitude", "global_magnitude", "random", "2:4")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PRUNED = -1.0  # below every magnitude: what is pruned stays pruned

Schedule = Callable[[int], float]
FilterFn = Callable[[str, nn.Module], bool]


def prune_(
    model: nn.Module,
    sparsity: float,
    method: str = "magnitude",
    *,
    schedule: Schedule | None = None,
    filter_fn: FilterFn | None = None,
    seed: int = 0,
) -> Pruning:
    """Set the least important weights of a model's layers to zero, and keep them there.

    sparsity   share of zeros in [0, 1]: exactly ``round(sparsity * numel)`` zeros in each layer
    method     "magnitude": the smallest of each layer; "global_magnitude": the smallest of all
               layers together, exactly ``round(sparsity * total)``; "random": drawn with ``seed``;
               "2:4": at most two of every four neighbouring inputs remain (sparsity 0.5)
    schedule   share of ``sparsity`` reached after n calls of ``step()``, such as ``cubic``; None:
               all of it at once
    filter_fn  ``(name, layer) -> bool``: which layers; None: every Linear and convolution

    A weight that several layers share is left alone. What was pruned before stays pruned.

    Raises ``InputError`` for an unknown method, a sparsity outside [0, 1], 2:4 at another sparsity
    or with a schedule, and a model without such a layer.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> pruning = prune_(model, 0.75)
    >>> pruning.sparsity
    0.75
    >>> _ = pruning.make_permanent()  # plain weights again, with exact zeros
    """
    _check(sparsity, method, schedule)
    layers = _layers(model, filter_fn)
    if not layers:
        raise InputError("the model has no Linear or convolution (that filter_fn accepts) to prune")
    return Pruning(model, layers, sparsity, method, schedule, seed)


def cubic(steps: int, begin: int = 0, every: int = 1) -> Schedule:
    """Zhu and Gupta's schedule: fast at first, slow at the end.

    steps  from the first pruning to the full sparsity
    begin  steps before it starts
    every  steps between two prunings

    >>> [round(cubic(4)(n), 3) for n in range(6)]
    [0.0, 0.578, 0.875, 0.984, 1.0, 1.0]
    """
    if steps < 1 or begin < 0 or every < 1:
        raise InputError(
            f"steps and every must be positive, begin not negative, got {steps=} {begin=} {every=}"
        )

    def share(n: int) -> float:
        done = (n - begin) // every * every
        return 1.0 - (1.0 - min(max(done / steps, 0.0), 1.0)) ** 3

    return share


class Mask(nn.Module):
    """Parametrization of a weight: zero where ``pruned``."""

    pruned: torch.Tensor

    def __init__(self, pruned: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("pruned", pruned)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.masked_fill(self.pruned, 0.0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What an assignment to ``layer.weight`` stores."""
        return weight


class Pruning:
    """The masks of one model. ``layers``: by name, those with a mask."""

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        sparsity: float,
        method: str,
        schedule: Schedule | None,
        seed: int,
    ) -> None:
        self.model, self.layers, self.target = model, layers, sparsity
        self.method, self.schedule, self.steps = method, schedule, 0
        self._masks = [_masked(layer) for layer in layers.values()]
        generator = torch.Generator().manual_seed(seed)
        self._random = [
            torch.rand(m.pruned.shape, generator=generator).to(m.pruned.device)
            for m in (self._masks if method == "random" else ())
        ]
        self._prune(1.0 if schedule is None else schedule(0))

    def step(self) -> float:
        """After an optimiser's step: prune as far as the schedule says; the sparsity now."""
        self.steps += 1
        if self.schedule is not None:
            self._prune(self.schedule(self.steps))
        return self.sparsity

    @property
    def sparsity(self) -> float:
        """Share of masked weights in all of ``layers``."""
        total = sum(m.pruned.numel() for m in self._masks)
        return sum(int(m.pruned.sum()) for m in self._masks) / total if total else 0.0

    def make_permanent(self) -> nn.Module:
        """Take the masks off and leave the zeros; the model, with plain parameters again."""
        for layer in self.layers.values():
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return self.model

    @torch.no_grad()
    def _prune(self, share: float) -> None:
        scores = [
            s.masked_fill(m.pruned, PRUNED)
            for s, m in zip(self._scores(), self._masks, strict=True)
        ]
        if self.method == "2:4":
            chosen = [
                _two_of_four(s, _input_dim(layer))
                for s, layer in zip(scores, self.layers.values(), strict=True)
            ]
        elif self.method == "global_magnitude":
            chosen = _smallest_of_all(scores, share * self.target)
        else:
            chosen = [_smallest(s, share * self.target) for s in scores]
        for mask, pruned in zip(self._masks, chosen, strict=True):
            mask.pruned |= pruned

    def _scores(self) -> list[torch.Tensor]:
        """Importance of every weight, by layer; not negative."""
        if self.method == "random":
            return self._random
        return [_weight(layer).detach().abs().float() for layer in self.layers.values()]


# -- layers and masks ------------------------------------------------------------------------------


def _check(sparsity: float, method: str, schedule: Schedule | None) -> None:
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0.0 <= sparsity <= 1.0:
        raise InputError(f"sparsity must be a share in [0, 1], got {sparsity}")
    if method == "2:4" and (sparsity != 0.5 or schedule is not None):
        raise InputError(
            f"2:4 is 50 % zeros at once: use sparsity=0.5 and no schedule, got {sparsity}"
            + (" with a schedule" if schedule is not None else "")
        )


def _layers(model: nn.Module, filter_fn: FilterFn | None) -> dict[str, nn.Module]:
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    found: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        if not (isinstance(layer, LAYERS) or _is_transposed(layer)):
            continue
        if filter_fn is not None and not filter_fn(name, layer):
            continue
        if hasattr(layer, "weight_orig"):
            raise InputError(
                f"{name} has a mask of torch.nn.utils.prune; make it permanent first: "
                'torch.nn.utils.prune.remove(layer, "weight")'
            )
        if owners[id(layer._parameters.get("weight"))] <= 1:  # else shared by several layers
            found[name] = layer
    return found


def _is_transposed(layer: nn.Module) -> bool:
    """Conv1D of transformers: a Linear whose weight is [inputs, outputs]."""
    return any(c.__name__ == "Conv1D" for c in type(layer).__mro__) and hasattr(layer, "weight")


def _input_dim(layer: nn.Module) -> int:
    return 0 if _is_transposed(layer) else 1


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _masked(layer: nn.Module) -> Mask:
    """The layer's mask, a new one where it has none."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrizations = layer.parametrizations["weight"]  # type: ignore[index]
        for known in parametrizations:
            if isinstance(known, Mask):
                return known
    mask = Mask(torch.zeros_like(_weight(layer), dtype=torch.bool))
    parametrize.register_parametrization(layer, "weight", mask)
    return mask


# -- which weights ---------------------------------------------------------------------------------


def _smallest(scores: torch.Tensor, share: float) -> torch.Tensor:
    """True at exactly ``round(share * numel)`` of the lowest scores."""
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    lowest = scores.flatten().topk(round(share * scores.numel()), largest=False, sorted=False)
    chosen[lowest.indices] = True
    return chosen.view_as(scores)


def _smallest_of_all(scores: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    together = torch.cat([s.flatten().to(scores[0].device) for s in scores])
    parts = _smallest(together, share).split([s.numel() for s in scores])
    return [p.view_as(s).to(s.device) for p, s in zip(parts, scores, strict=True)]


def _two_of_four(scores: torch.Tensor, dim: int) -> torch.Tensor:
    """True at the two lowest of every four neighbours along ``dim``; a rest of 1 or 2 is kept."""
    last = scores.movedim(dim, -1)
    padded = nn.functional.pad(last, (0, -last.shape[-1] % 4), value=PRUNED)
    groups = padded.unflatten(-1, (-1, 4))
    lowest = groups.topk(2, largest=False).indices
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, lowest, True)
    return chosen.flatten(-2)[..., : last.shape[-1]].movedim(-1, dim)
