"""What is searched, known before a study begins: every family's own fields, the knobs as log2."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import families_of
from sparse_triton.plan import why_not
from sparse_triton.problem import Problem

KNOBS = ("M_blocks", "N_blocks", "Gy")
DENSE = KernelConfig("dense")


@dataclass(frozen=True)
class SearchSpace:
    """``families[kernel][field]``: candidate values, ascending for the knobs.

    As Optuna parameters: ``kernel`` is a choice, ``log2_M_blocks``, ``log2_N_blocks`` and
    ``log2_Gy`` are integers shared by all families (a value a family does not have means its
    nearest), every other field is a choice named ``<kernel>.<field>``.
    """

    families: Mapping[str, Mapping[str, tuple[Any, ...]]]

    @staticmethod
    def of(problem: Problem, device: Device, left_out: Collection[str] = ()) -> SearchSpace:
        """The families that can run the problem at all. Dense has nothing to search."""
        found = {}
        for name, family in families_of(problem).items():
            if name in (DENSE.kernel, *left_out) or family.device_kind not in (device.kind, "any"):
                continue
            if why_not(problem, family.default_config(problem, device), device) is None:
                found[name] = _ascending(family.space(problem, device))
        return SearchSpace(found)

    def __len__(self) -> int:
        """How many configurations there are, legal or not."""
        return sum(
            math.prod(len(values) for values in fields.values())
            for fields in self.families.values()
        )

    def __iter__(self) -> Iterator[KernelConfig]:
        """Every configuration, family by family."""
        for kernel, fields in self.families.items():
            for values in itertools.product(*fields.values()):
                yield KernelConfig(kernel, **dict(zip(fields, values, strict=True)))

    # -- Optuna ------------------------------------------------------------------------------

    def distributions(self, kernel: str) -> dict[str, BaseDistribution]:
        """The parameters of a trial of this family, in the order they are asked for."""
        out: dict[str, BaseDistribution] = {"kernel": CategoricalDistribution(tuple(self.families))}
        for field, values in self.families[kernel].items():
            if field in KNOBS:
                out[f"log2_{field}"] = IntDistribution(0, self._top(field))
            elif len(values) > 1:
                out[f"{kernel}.{field}"] = CategoricalDistribution(values)
        return out

    def _top(self, knob: str) -> int:
        largest = max(fields[knob][-1] for fields in self.families.values() if knob in fields)
        return max(0, round(math.log2(largest)))

    def config(self, params: Mapping[str, Any]) -> KernelConfig:
        """The configuration that parameters mean."""
        kernel = params["kernel"]
        chosen: dict[str, Any] = {}
        for field, values in self.families[kernel].items():
            if field in KNOBS:
                chosen[field] = _nearest(values, params[f"log2_{field}"])
            else:
                chosen[field] = params.get(f"{kernel}.{field}", values[0])
        return KernelConfig(kernel, **chosen)

    def params(self, config: KernelConfig) -> dict[str, Any] | None:
        """The parameters nearest to a configuration; None where an extra has no such choice."""
        if config.kernel not in self.families:
            return None
        out: dict[str, Any] = {}
        for name, d in self.distributions(config.kernel).items():
            if isinstance(d, IntDistribution):
                exact = math.log2(max(1, getattr(config, name.removeprefix("log2_"))))
                out[name] = min(d.high, max(d.low, round(exact)))
            elif isinstance(d, CategoricalDistribution):
                out[name] = getattr(config, name.rpartition(".")[2])
                if out[name] not in d.choices:
                    return None
        return out


def _ascending(fields: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {f: tuple(sorted(v)) if f in KNOBS else tuple(v) for f, v in fields.items() if v}


def _nearest(values: tuple[int, ...], log2: int) -> int:
    return min(values, key=lambda v: abs(math.log2(max(v, 1)) - log2))


def steps(config: KernelConfig, fields: Mapping[str, tuple[Any, ...]]) -> Iterator[KernelConfig]:
    """What lies one step away: knobs doubled or halved, Gy and M_blocks together too (a program
    keeps its size), a quarter less or half as many M_blocks more (how many programs fit side by
    side goes by their rows), every other field at its next and previous value."""
    for M, N, Gy in ((1, 1, 2), (1, 1, 0.5), (2, 1, 1), (0.5, 1, 1), (2, 1, 2), (0.5, 1, 0.5),
                     (1, 2, 1), (1, 0.5, 1), (0.75, 1, 1), (1.5, 1, 1)):  # fmt: skip
        yield replace(
            config,
            M_blocks=_times(config.M_blocks, M),
            N_blocks=_times(config.N_blocks, N),
            Gy=_times(config.Gy, Gy),
        )
    for field, values in fields.items():
        if field not in KNOBS and getattr(config, field) in values:
            at = values.index(getattr(config, field))
            for other in values[max(0, at - 1) : at] + values[at + 1 : at + 2]:
                whole = {"spare": 0} if field == "row_blocks" else {}  # room for split rows only
                yield replace(config, **{field: other, **whole})


def _times(count: int, factor: float) -> int:
    return max(1, math.ceil(count * factor))
