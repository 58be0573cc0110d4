"""What is to become of each layer of a model, decided before anything is touched."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparse_triton.convert.blocks import Block, find_blocks, names_of_modules, shared_modules
from sparse_triton.convert.build import build
from sparse_triton.convert.config import SparsifyConfig
from sparse_triton.convert.gain import Gain, expected_gain
from sparse_triton.convert.observe import watch
from sparse_triton.convert.patterns import Fusion
from sparse_triton.convert.read import Layer, layers_of, unreadable
from sparse_triton.convert.recognise import why_not_folded
from sparse_triton.convert.report import Report, Row
from sparse_triton.nn import SparseModule

Module = torch.nn.Module
FilterFn = Callable[[str, Module], bool]


@dataclass
class Step:
    """A layer that is converted."""

    layer: Layer
    sparse: SparseModule
    fusion: Fusion | None
    block: Block | None


@dataclass
class Plan:
    """``calls``: how often modules of the converted model run in one pass; None: nobody looked."""

    steps: list[Step]
    report: Report
    calls: Counter[Module] | None


def plan(
    model: Module, config: SparsifyConfig, filter_fn: FilterFn | None, example_inputs: Any
) -> Plan:
    """Decide for every layer; the model is run once if there are example inputs."""
    return _Planner(model, config, filter_fn, example_inputs).plan()


class _Planner:
    def __init__(
        self, model: Module, config: SparsifyConfig, filter_fn: FilterFn | None, example: Any
    ) -> None:
        self.model, self.config, self.filter_fn = model, config, filter_fn
        self.layers = list(layers_of(model))
        self.names = names_of_modules(model)
        self.shared = shared_modules(model)
        self.holders = _holders_of_parameters(model)
        self.attended = _inside_attention(model)
        self.watched = None if example is None else watch(model, example)
        self.weights: dict[Module, torch.Tensor] = {}
        self.reasons: dict[Module, str] = {}
        self.untraced: dict[Module, str] = {}

    def plan(self) -> Plan:
        for layer in self.layers:
            reason = self._why_dense(layer)
            if reason:
                self.reasons[layer.module] = reason
        blocks = self._blocks() if self.config.fuse else {}
        rows, steps = [], []
        for layer in self.layers:
            row, step = self._decide(layer, blocks.get(layer.module))
            rows.append(row)
            steps += [] if step is None else [step]
        kept = [row for row in rows if row is not None]
        return Plan(steps, Report(tuple(kept), tuple(self._notes(steps))), self._calls(steps))

    def _calls(self, steps: list[Step]) -> Counter[Module] | None:
        if self.watched is None:
            return None
        calls = self.watched.calls
        return calls + Counter({step.sparse: calls[step.layer.module] for step in steps})

    # -- why a layer stays dense -----------------------------------------------------------------

    def _why_dense(self, layer: Layer) -> str:
        """The first reason not to convert a layer, from cheap to dear; "" if there is none."""
        return (
            unreadable(layer)
            or self._why_not_sparse(layer)
            or self._why_not_kind(layer)
            or self._why_not_alone(layer)
            or self._why_not_wanted(layer)
        )

    def _why_not_sparse(self, layer: Layer) -> str:
        w = self.weights[layer.module] = layer.weight()
        sparsity, least = self._counted(layer, w), self.config.min_sparsity
        if sparsity < least:
            return f"{sparsity:.1%} zeros, min_sparsity is {least:.1%}"
        return ""

    def _counted(self, layer: Layer, w: torch.Tensor) -> float:
        """Share of zeros, with those between the groups where they count."""
        groups = getattr(layer.module, "groups", 1) if self.config.between_groups else 1
        return 1.0 - (1.0 - _sparsity(w)) / groups

    def _why_not_kind(self, layer: Layer) -> str:
        if not layer.kind:
            exact = type(layer.module) in (torch.nn.Linear, torch.nn.Conv2d)
            subclass = isinstance(layer.module, (torch.nn.Linear, torch.nn.Conv2d)) and not exact
            if layer.module in self.attended:
                return "nn.MultiheadAttention reads its weight without calling it"
            if subclass:
                return f"{layer} is a subclass: its forward may be another one"
            return f"there is no sparse layer for {layer}"
        if "forward" in layer.module.__dict__:
            return "its forward was replaced on the instance"
        if layer.kind == "conv2d" and layer.module.padding_mode != "zeros":
            return f"padding_mode is {layer.module.padding_mode!r}, the kernels pad with zeros"
        return ""

    def _why_not_alone(self, layer: Layer) -> str:
        if layer.parent is None:
            return "it is the model itself, and has no parent to swap it in; wrap it in a module"
        if layer.module in self.shared:
            others = [n for n in self.names[layer.module] if n != layer.name]
            return f"the module is shared: it is {', '.join(others)} too"
        for p in layer.parameters:
            others = [n for n in self.holders[_memory(p)] if not n.startswith(f"{layer.name}.")]
            if others:
                return f"its weight is tied to {', '.join(sorted(others))}"
        return ""

    def _why_not_wanted(self, layer: Layer) -> str:
        if self.filter_fn is not None and not self.filter_fn(layer.name, layer.module):
            return "filter_fn said no"
        return ""

    # -- fusions -----------------------------------------------------------------------------------

    def _blocks(self) -> dict[Module, Block]:
        """The block of each layer that something is fused with."""
        wanted = {x.module for x in self.layers if x.module not in self.reasons}
        calls = None if self.watched is None else self.watched.calls
        return find_blocks(self.model, wanted, calls, self.untraced)

    # -- decisions ---------------------------------------------------------------------------------

    def _decide(self, layer: Layer, block: Block | None) -> tuple[Row | None, Step | None]:
        reason = self.reasons.get(layer.module, "")
        if reason:
            return self._dense_row(layer, reason), None
        fusion = block.fusions[layer.module] if block else None
        norm = None
        if block and fusion and fusion.batch_norm:
            norm = block.module.get_submodule(fusion.batch_norm)
        w = self.weights[layer.module]
        sparse = build(layer, w, fusion, norm)
        gain = self._gain(layer, sparse, fusion)
        if gain is not None and (reason := self._why_no_gain(gain)):
            return self._dense_row(layer, reason, gain), None
        row = self._row(
            layer, "sparse", self._why_sparse(layer, gain), gain,
            fused=tuple(fusion.words) if fusion else (),
            sparse_bytes=sum(b.nbytes for b in sparse.buffers()),
        )  # fmt: skip
        return row, Step(layer, sparse, fusion, block)

    def _gain(self, layer: Layer, sparse: SparseModule, fusion: Fusion | None) -> Gain | None:
        if self.watched is None:
            return None
        residual = fusion is not None and fusion.residual is not None
        return expected_gain(
            sparse, self.watched.inputs[layer.module], residual, sparse.values.device
        )

    def _why_no_gain(self, gain: Gain) -> str:
        if gain.choice.config.kernel == "dense" and self.config.min_gain > 0:
            return f"below break-even at N = {gain.columns}: dense is taken ({gain.choice.why})"
        if gain.factor < self.config.min_gain:
            return f"expected gain {gain.factor:.2f}, min_gain is {self.config.min_gain:.2f}"
        return ""

    def _why_sparse(self, layer: Layer, gain: Gain | None) -> str:
        words = []
        if layer.masked_by:
            words.append(f"zeros by {layer.masked_by}")
        if _sparsity(self.weights[layer.module]) < self.config.min_sparsity:
            words.append("sparse with the zeros between its groups")
        if gain is not None:
            words.append(f"N = {gain.columns}: {gain.choice.config.kernel} ({gain.choice.source})")
        elif self.watched is not None:
            words.append("the example inputs never reach it")
        if any(p.requires_grad for p in layer.parameters) and layer.module.training:
            words.append("the weight is a constant from now on: it no longer trains")
        return "; ".join(words) or "sparse enough; no example inputs, so no expected gain"

    def _dense_row(self, layer: Layer, reason: str, gain: Gain | None = None) -> Row | None:
        w = self.weights.get(layer.module)
        if not layer.kind and (w is None or _sparsity(w) < self.config.min_sparsity):
            return None  # an embedding, say, that nobody pruned
        return self._row(layer, "dense", reason, gain)

    def _row(self, layer: Layer, decision: Any, reason: str, gain: Gain | None, **more: Any) -> Row:
        w = self.weights.get(layer.module)
        p = layer.parameters[0] if w is None and layer.parameters else w
        return Row(
            layer.name, str(layer), () if p is None else tuple(p.shape),
            0.0 if w is None else _sparsity(w), decision, reason,
            gain=None if gain is None else gain.factor,
            gain_source="" if gain is None else "measured" if gain.measured else "estimate",
            dense_bytes=0 if p is None else p.numel() * p.element_size(), **more,
        )  # fmt: skip

    def _notes(self, steps: list[Step]) -> list[str]:
        """What of the model as a whole was not fused, and why."""
        if not steps:
            return []
        norms = Counter(why_not_folded(m) for m in self.model.modules())
        found = [
            f"{n} BatchNorm not folded: {why}" for why, n in norms.items() if why not in ("", "-")
        ]
        blocks = Counter((type(m).__name__, why) for m, why in self.untraced.items())
        return found + [
            f"nothing is fused in {n} {name}: {why}" for (name, why), n in blocks.items()
        ]


def _sparsity(w: torch.Tensor) -> float:
    return 1.0 - int(torch.count_nonzero(w)) / max(1, w.numel())


def _holders_of_parameters(model: Module) -> dict[Any, list[str]]:
    """Names of the parameters by the memory they are in: tied ones share it."""
    holders = defaultdict(list)
    for name, p in model.named_parameters(remove_duplicate=False):
        holders[_memory(p)].append(name)
    return dict(holders)


def _memory(p: torch.Tensor) -> Any:
    if p.layout is not torch.strided or p.is_meta or p.numel() == 0:
        return id(p)
    return p.device, p.data_ptr()


def _inside_attention(model: Module) -> set[Module]:
    attentions = (m for m in model.modules() if isinstance(m, torch.nn.MultiheadAttention))
    return {child for attention in attentions for child in attention.modules()}
