"""``Report``: what became, or would become, of each layer, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, Literal

Decision = Literal["sparse", "dense"]


@dataclass(frozen=True)
class Row:
    """One layer.

    shape         of the weight as the layer has it
    decision      "sparse": converted; "dense": left as it is
    reason        why, in words
    fused         what the layer's kernel does besides: "bn1", "residual", "relu", "max pool 2x2"
    gain          expected speed-up over the dense call; None where the shapes are not known
    gain_source   "measured" (both times stand in the store), "estimate" (roofline), or ""
    dense_bytes   of the weight, and ``sparse_bytes`` of its values and indices
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    sparsity: float
    decision: Decision
    reason: str
    fused: tuple[str, ...] = ()
    gain: float | None = None
    gain_source: str = ""
    dense_bytes: int = 0
    sparse_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Of the weight after the conversion."""
        return self.sparse_bytes if self.decision == "sparse" else self.dense_bytes


@dataclass(frozen=True)
class Report:
    """A table of rows, one per layer with a weight; ``notes`` concern the model as a whole."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row of a layer by its name; ``KeyError`` for another."""
        return {row.name: row for row in self.rows}[name]

    @property
    def converted(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.decision == "sparse")

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons by name."""
        return {row.name: row.reason for row in self.rows if row.decision == "dense"}

    @property
    def dense_bytes(self) -> int:
        return sum(row.dense_bytes for row in self.rows)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": [asdict(row) | {"bytes": row.bytes} for row in self.rows],
            "notes": list(self.notes),
            "converted": len(self.converted),
            "dense_bytes": self.dense_bytes,
            "bytes": self.bytes,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        head = ("layer", "kind", "weight", "zeros", "now", "gain", "kB", "why")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
        table = [
            "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]])
            for line in lines
        ]
        total = (
            f"{len(self.converted)} of {len(self.rows)} layers sparse, weights "
            f"{self.dense_bytes / 1e6:.2f} MB -> {self.bytes / 1e6:.2f} MB"
        )
        return "\n".join([*table, total, *self.notes])

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """A matplotlib figure: bytes of each weight before and after; written to ``path``."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.2 + 0.28 * max(1, len(self.rows))), layout="constrained")
        ax = figure.add_subplot()
        names = [f"{row.name} ({row.sparsity:.0%})" for row in self.rows]
        places = range(len(names))
        ax.barh(places, [r.dense_bytes / 1e3 for r in self.rows], color="lightgray", label="dense")
        sparse = [r.bytes / 1e3 if r.decision == "sparse" else 0.0 for r in self.rows]
        ax.barh(places, sparse, color="tab:blue", height=0.5, label="sparse")
        for place, row in zip(places, self.rows, strict=True):
            if row.gain is not None:
                ax.annotate(f" {row.gain:.1f} x", (row.dense_bytes / 1e3, place), va="center")
        ax.set_yticks(places, names, fontsize=7)
        ax.invert_yaxis()
        ax.set(xlabel="kB of the weight", title="weights, and the expected gain over dense")
        ax.legend(fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure


def _cells(row: Row) -> tuple[str, ...]:
    gain = (
        "-"
        if row.gain is None
        else f"{row.gain:.2f}" + ("*" if row.gain_source == "estimate" else "")
    )
    now = row.decision + (f" + {', '.join(row.fused)}" if row.fused else "")
    shape = "x".join(map(str, row.shape))
    sizes = f"{row.dense_bytes / 1e3:.1f} -> {row.bytes / 1e3:.1f}"
    return row.name, row.layer, shape, f"{row.sparsity:.1%}", now, gain, sizes, row.reason
