"""``explain``: which kernel runs a product, where the choice came from, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparse_triton import weights
from sparse_triton.call import Call
from sparse_triton.choose import Choice, choose
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.errors import ShapeError
from sparse_triton.executor import AnyCall, problem_of
from sparse_triton.filter import SparseFilter
from sparse_triton.geometry import geometry_of, pool_of
from sparse_triton.kernels import families_of
from sparse_triton.matrix import SparseMatrix
from sparse_triton.plan import why_not
from sparse_triton.problem import Problem
from sparse_triton.records import Entry, Key
from sparse_triton.roofline import Peak, at_best_us, peak_of
from sparse_triton.store import default_store


@dataclass(frozen=True)
class Candidate:
    """One family's standing.

    config       chosen, else fastest measured, else its heuristic; None where it cannot run
    why_not      why it cannot run here, or why it was not taken; None for the chosen one
    usable       whether it can run the problem on the device
    at_best_us   roofline estimate, µs; None where it cannot run
    measured_us  from the store, µs; None where it was never measured for this problem
    """

    family: str
    usable: bool
    config: KernelConfig | None
    why_not: str | None
    at_best_us: float | None
    measured_us: float | None


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found. ``str()`` is a readable table, ``to_dict()`` plain JSON values."""

    problem: Problem
    device: Device
    choice: Choice
    candidates: tuple[Candidate, ...]
    peak: Peak

    def to_dict(self) -> dict[str, Any]:
        return {
            "problem": self.problem.to_dict(),
            "device": asdict(self.device),
            "choice": asdict(self.choice),
            "candidates": [asdict(c) for c in self.candidates],
            "estimate": asdict(self.peak),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.problem}, {self.problem.nnz} non-zeros, on {self.device.name}",
            f"chosen    {self.choice.config}",
            f"source    {self.choice.source}: {self.choice.why}",
            "",
            f"{'family':10}{'at best us*':>12}{'measured us':>13}  configuration, or why not",
            *(_line(c) for c in self.candidates),
            "",
            "* an estimate: the least time for the flop and bytes of the problem, at",
            f"  {self.peak}",
        ]
        return "\n".join(lines)


def _line(c: Candidate) -> str:
    head = f"{c.family:10}{_us(c.at_best_us):>12}{_us(c.measured_us):>13}  "
    if c.why_not is None:
        return f"{head}{c.config} <- chosen"
    return head + (f"{c.config}: {c.why_not}" if c.usable else c.why_not)


def _us(time: float | None) -> str:
    return "-" if time is None else f"{time:.2f}"


def explain(
    W: SparseMatrix | SparseFilter | torch.Tensor,
    X_or_N: torch.Tensor | int,
    *,
    token_major: bool = False,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    accumulate: str = "float32",
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    pool: str | None = None,
    pool_kernel: int | Sequence[int] = 2,
    pool_stride: int | Sequence[int] | None = None,
    pool_padding: int | Sequence[int] = 0,
) -> Explanation:
    """Why ``spmm(W, X)`` (``linear(X, W)`` with ``token_major``), or ``conv2d(X, W)``, runs as it
    does.

    W         as for ``spmm``, or as for ``conv2d``
    X_or_N    X; for a product also its number of columns N, then X has W's dtype and device
    bias, residual, activation
              of the call: another epilogue is another problem in the store
    accumulate
              of a product, as for ``spmm``
    stride, padding, dilation, groups, pool, ...
              of a convolution, as for ``conv2d`` and ``conv2d_pool``; pool None: no pool
    Nothing is launched, compiled or tuned: estimates come from a roofline, times from the store.
    Raises    as ``spmm`` and ``conv2d`` do for arguments that do not fit.

    >>> import torch
    >>> explanation = explain(torch.eye(64), 128)
    >>> [c.family for c in explanation.candidates if c.why_not is None] == [
    ...     explanation.choice.config.kernel
    ... ]
    True
    """
    if isinstance(W, SparseFilter) or (isinstance(W, torch.Tensor) and W.ndim == 4):
        prepared = weights.as_filter(W, groups)
        found = None if pool is None else pool_of(pool, pool_kernel, pool_stride, pool_padding)
        geometry = geometry_of(prepared.kernel, stride, padding, dilation, groups, found)
        if not isinstance(X_or_N, torch.Tensor):
            raise ShapeError(f"a convolution needs X [B, C, H, W], got {X_or_N!r}")
        if X_or_N.ndim == 3:
            X_or_N, residual = X_or_N[None], None if residual is None else residual[None]
        call = ConvCall(X_or_N, bias, residual, activation, geometry)
        return _explained(prepared.matrix, call)
    matrix = weights.as_matrix(W)
    X = _like_x(matrix, X_or_N, token_major)
    return _explained(matrix, Call(X, bias, residual, activation, token_major, accumulate))


def _explained(matrix: SparseMatrix, call: AnyCall) -> Explanation:
    call.check(matrix.shape)
    where = matrix.device if call.X.device.type == "meta" else call.X.device
    problem, device, peak = problem_of(matrix, call), Device.of(where), peak_of(where)
    choice = choose(problem, matrix.pattern_hash, device)
    entry = default_store().get(Key(problem, matrix.pattern_hash), device)
    candidates = tuple(
        _candidate(name, problem, device, choice, entry, peak) for name in families_of(problem)
    )
    return Explanation(problem, device, choice, candidates, peak)


def _like_x(W: SparseMatrix, X_or_N: torch.Tensor | int, token_major: bool) -> torch.Tensor:
    if isinstance(X_or_N, torch.Tensor):
        return X_or_N
    if isinstance(X_or_N, bool) or not isinstance(X_or_N, int) or X_or_N < 0:
        raise ShapeError(f"N must be a whole number of columns >= 0, or X a tensor; got {X_or_N!r}")
    K = W.shape[1]
    shape = (X_or_N, K) if token_major else (K, X_or_N)
    return torch.empty(shape, dtype=W.dtype, device="meta")


def _candidate(
    name: str, problem: Problem, device: Device, choice: Choice, entry: Entry | None, peak: Peak
) -> Candidate:
    config, measured = _best_known(name, problem, device, choice, entry)
    reason = why_not(problem, config, device)
    if reason is not None:
        return Candidate(name, False, None, reason, None, None)
    if config == choice.config:
        reason = None
    elif measured is not None and choice.us is not None:
        reason = f"takes {measured / choice.us:.2f} x the chosen one's time"
    else:
        reason = f"can run, not measured; {_preference(choice)}"
    return Candidate(name, True, config, reason, at_best_us(problem, name, peak), measured)


def _preference(choice: Choice) -> str:
    if choice.source == "heuristic":
        return f"untuned, {choice.config.kernel} goes first at this shape and sparsity"
    return f"the {choice.source} configuration is {choice.config.kernel}"


def _best_known(
    name: str, problem: Problem, device: Device, choice: Choice, entry: Entry | None
) -> tuple[KernelConfig, float | None]:
    """The family's configuration to speak of, and its measured time if it has one."""
    if choice.config.kernel == name:
        return choice.config, choice.us
    if entry is not None:
        if name == "dense" and entry.best is not None and entry.best.dense is not None:
            return KernelConfig("dense"), entry.best.dense.us
        timed = [(t.config, t.timing.us) for t in entry.trials if t.timing and t.outcome == "ok"]
        mine = [(config, us) for config, us in timed if config.kernel == name]
        if mine:
            return min(mine, key=lambda pair: pair[1])
    family = families_of(problem)[name]
    if family.device_kind not in (device.kind, "any"):
        return KernelConfig(name), None
    return family.default_config(problem, device), None
