"""``KernelConfig``: the launch parameters that are searched, stored and explained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from sparse_triton.errors import ConfigError

RowBlocks = Literal["even_rows", "even_nnz", "sorted", "split"]
Fastest = Literal["rows", "columns"]
Format = Literal["gaps4", "gaps8", "columns16", "bitmap"]


@dataclass(frozen=True)
class KernelConfig:
    """How one problem is cut and which kernel family runs it.

    kernel      family: "unrolled", "gather", "turned", "decode", "tf32x3", "pairs", "dense",
                "cpu"
    M_blocks    row blocks (a count, not a size)
    N_blocks    column tiles (a count, not a size)
    Gy          thread groups that share a row block's K range by equal nnz
    K_blocks    programs of one cluster that share a row block's K range by equal nnz
    stack       row blocks of one program, over the same column tile of X
    vector      adjacent columns of one lane, fetched by one load
    repeat      such groups of columns in one lane, a whole row of lanes apart
    row_blocks  "even_rows" in natural order; "even_nnz" deals rows so that blocks weigh the same;
                "sorted" puts rows of similar length together; "split" deals as even_nnz and cuts
                rows into lists of equal length, Gy for a mean row, more for a longer one
    spare       of split rows: row blocks beyond M_blocks, per cent; more room, shorter lists
    prefetch    loads issued ahead of their use
    sync_every  instructions between barriers that keep warps in lock step; 0: none
    starts      places in K at which the warps of a scheduler begin: each fetches other code first,
                and finds what the others fetched
    fastest     what neighbouring programs differ in: "rows" (they share a column tile of X) or
                "columns" (they share code or pairs)
    window_kb   of a convolution: shared memory for what is staged at a time, in KB
    format      of a compressed weight: "gaps4", "gaps8" (bits for the distance between two
                non-zeros of a row), "columns16" (16-bit column indices), "bitmap" (tensor cores)

    Families ignore what they do not name in their ``space``. Validity is one rule:
    ``family.why_not(problem, config, device)``.
    """

    kernel: str
    M_blocks: int = 1
    N_blocks: int = 1
    Gy: int = 1
    K_blocks: int = 1
    stack: int = 1
    vector: int = 1
    row_blocks: RowBlocks = "even_rows"
    spare: int = 0
    prefetch: int = 8
    sync_every: int = 0
    repeat: int = 1
    starts: int = 1
    fastest: Fastest = "rows"
    format: Format = "gaps4"
    window_kb: int = 48

    @property
    def parts(self) -> int:
        """Partial sums that make one output: of the groups of all programs of a cluster."""
        return self.Gy * self.K_blocks

    @property
    def step(self) -> int:
        """Units of roundoff that one addition may lose: tensor cores truncate."""
        return 2 if self.kernel == "decode" and self.format == "bitmap" else 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(d: dict[str, Any]) -> KernelConfig:
        """The inverse of ``to_dict``; raises ``ConfigError`` for fields it does not know."""
        known = {f.name: f for f in fields(KernelConfig)}
        unknown = sorted(set(d) - set(known))
        if unknown or "kernel" not in d:
            raise ConfigError(
                f"a configuration has the fields {sorted(known)}, got {sorted(d)}; "
                + (f"remove {unknown}" if unknown else "name the kernel")
            )
        for name, value in d.items():
            want = str if name in ("kernel", "row_blocks", "fastest", "format") else int
            if not isinstance(value, want) or isinstance(value, bool):
                raise ConfigError(f"{name} must be {want.__name__}, got {value!r}")
        return KernelConfig(**d)

    def __str__(self) -> str:
        shown = [f"{n}={getattr(self, n)}" for n in ("M_blocks", "N_blocks", "Gy")]
        for f in fields(self)[4:]:
            value = getattr(self, f.name)
            if value != f.default:
                shown.append(f"{f.name}={value}")
        return f"{self.kernel}({', '.join(shown)})"


def counts_why_not(config: KernelConfig, row_blocks: tuple[str, ...]) -> str | None:
    """The laws every family shares: positive counts, a known way to cut rows."""
    counts = ("M_blocks", "N_blocks", "Gy", "K_blocks", "stack", "vector", "prefetch", "repeat")
    for name in (*counts, "starts", "window_kb"):
        if getattr(config, name) < 1:
            return f"{name} must be at least 1, got {getattr(config, name)}"
    if config.spare < 0:
        return f"spare must be 0 per cent or more, got {config.spare}"
    if config.sync_every < 0:
        return f"sync_every must be 0 (never) or positive, got {config.sync_every}"
    if config.fastest not in ("rows", "columns"):
        return f'fastest must be "rows" or "columns", got {config.fastest!r}'
    if config.format not in get_args(Format):
        return f"format must be one of {get_args(Format)}, got {config.format!r}"
    if config.row_blocks not in row_blocks:
        return (
            f"row_blocks must be one of {row_blocks} for {config.kernel}, got {config.row_blocks!r}"
        )
    return None


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """``low, 2 low, …`` up to ``high``; at least ``low``."""
    out = [low]
    while out[-1] * 2 <= high:
        out.append(out[-1] * 2)
    return tuple(out)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def filled(count: int, unit: int, least: float = 0.9) -> bool:
    """Whether that share of all units, the last one included, is filled."""
    return count >= least * unit * ceil_div(count, unit)


def next_power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def grid_of(config: KernelConfig, blocks: int, tiles: int, batch: int) -> tuple[int, int, int]:
    """The launch grid: the first axis is what neighbouring programs differ in."""
    return (tiles, blocks, batch) if config.fastest == "columns" else (blocks, tiles, batch)
