"""The literature's results, reproduced on the GPU at hand beside the published figures.

``published`` (their figures) and one file a kind of measurement; ``part`` says what a result is,
``write`` makes JSON, Markdown and pictures of it.
"""

from __future__ import annotations

from benchmarks.paper.ablation import FIG_8
from benchmarks.paper.convolution import TABLE_3, VGG_CONV, VGG_CONV_POOL
from benchmarks.paper.over_sparsity import FIG_11
from benchmarks.paper.part import Part, Setting
from benchmarks.paper.products import FIG_4, FIG_10, TABLE_1
from benchmarks.paper.structured import FIG_2

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        TABLE_1, FIG_4, FIG_8, FIG_10, FIG_11, TABLE_3, VGG_CONV, VGG_CONV_POOL, FIG_2,
    )
}  # fmt: skip

__all__ = ["PARTS", "Part", "Setting"]
