"""Tuning a convolution on the CPU: the lab's judgement, a study, the store, ``explain``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune.conv_lab import ConvLab, lab_of
from sparse_triton import SparseFilter, choose, conv2d, conv2d_pool, errors
from sparse_triton.config import KernelConfig
from sparse_triton.conv_call import ConvCall
from sparse_triton.device import Device
from sparse_triton.executor import problem_of
from sparse_triton.geometry import geometry_of
from sparse_triton.kernels import CONV_FAMILIES
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import ConvProblem, Epilogue, Pool, SpmmProblem
from sparse_triton.records import Key
from sparse_triton.store import Store

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
PROBLEMS: list[dict[str, Any]] = [
    {},
    {"x_layout": "column", "y_layout": "column", "stride": (2, 1), "x_dtype": "float16"},
    {"pool": Pool("max", (2, 2), (2, 2)), "epilogue": Epilogue(True, True, "gelu")},
    {"pool": Pool("avg", (3, 2), (2, 2), (1, 0)), "x_dtype": "bfloat16"},
]


def drawn() -> SparseFilter:
    return SparseFilter.from_dense(torch.randn(6, 4, 3, 3) * (torch.rand(6, 4, 3, 3) < 0.2))


def problem(weight: SparseFilter, **changes: Any) -> ConvProblem:
    return replace(ConvProblem(2, 4, 9, 11, 6, 3, 3, weight.nnz, padding=(1, 1, 1, 1)), **changes)


def run_of(lab: Any, config: KernelConfig) -> Any:
    plan = plan_spmm(lab.problem, config, lab.W.csr, Device.of(CPU))
    return plan.family.build(plan).bind(CPU)


@pytest.mark.parametrize("changes", PROBLEMS, ids=str)
def test_lab_passes_what_is_right(changes: dict[str, Any]) -> None:
    W = drawn()
    lab = lab_of(W.matrix, problem(W, **changes), CPU)
    for name in ("cpu", "dense"):
        config = CONV_FAMILIES[name].default_config(lab.problem, Device.of(CPU))  # type: ignore[arg-type]
        assert lab.check(run_of(lab, config), config) == ""


@pytest.mark.parametrize("kind", ["off", "missing", "beside"])
def test_lab_refuses_what_is_wrong(kind: str) -> None:
    W = drawn()
    lab = ConvLab(W.matrix, problem(W), CPU)
    config = KernelConfig("cpu")
    right = run_of(lab, config)

    def wrong(X: Any, Y: torch.Tensor, bias: Any, residual: Any) -> None:
        right(X, Y, bias, residual)
        if kind == "off":
            Y[1, 5, 8, 10] *= 1 + 2.0**-14
        elif kind == "missing":
            Y[0, 3, 0, 0] = torch.nan
        else:
            lab.buffer[0] = 1.0

    words = {"off": "times the error bound", "missing": "not written", "beside": "outside of Y"}
    assert words[kind] in lab.check(wrong, config)
    assert lab.check(lambda *a: right(*a), config) == ""


def test_lab_samples_images_of_a_big_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.conv_lab.BIG", 6 * 9 * 11 * 3)
    monkeypatch.setattr("autotune.lab.BIG", 6 * 9 * 11 * 3)
    W = drawn()
    lab = ConvLab(W.matrix, problem(W, batch=9), CPU)
    assert lab.columns is not None and lab.columns.tolist() == [0, 4, 8] and len(lab.cases) == 1
    config = KernelConfig("cpu")
    right = run_of(lab, config)
    assert lab.check(right, config) == ""

    def hole(X: Any, Y: torch.Tensor, bias: Any, residual: Any) -> None:
        right(X, Y, bias, residual)
        Y[5, 0, 0, 0] = torch.nan  # between the images that are compared

    assert "not written" in lab.check(hole, config)


def test_a_study_is_stored_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    W, X = drawn(), torch.randn(2, 4, 9, 11)
    bias = torch.randn(6)
    call = ConvCall(
        X, bias, None, "relu", geometry_of((3, 3), 1, 1, 1, 1, Pool("max", (2, 2), (2, 2)))
    )
    what = problem_of(W.matrix, call)
    assert isinstance(what, ConvProblem)
    before = conv2d_pool(X, W, bias, padding=1)
    found = autotune.tune(W, what, device="cpu", seconds=1.0)
    assert found.entry.key == Key(what, W.matrix.pattern_hash)
    assert {t.config.kernel for t in found.entry.trials} == {"cpu", "dense"}
    assert not [t for t in found.entry.trials if t.outcome in ("wrong", "failed")]
    read = Store(tmp_path).get(found.entry.key, Device.of(CPU))
    assert read is not None and read.best == found.entry.best
    chosen = choose.choose(what, W.matrix.pattern_hash, Device.of(CPU))
    assert (chosen.source, chosen.config) == ("stored", found.config)
    torch.testing.assert_close(conv2d_pool(X, W, bias, padding=1), before, rtol=1e-4, atol=1e-4)


def test_neighbours_are_of_the_same_kind() -> None:
    """A product's configuration is never a convolution's, and geometry sets classes apart."""
    W = drawn()
    conv = Key(problem(W), W.matrix.pattern_hash)
    product = Key(SpmmProblem(6, 36, 99, W.nnz, batch=2), W.matrix.pattern_hash)
    strided = Key(problem(W, stride=(2, 2), H=18, W=22), W.matrix.pattern_hash)
    wider = Key(problem(W, W=22), W.matrix.pattern_hash)
    assert choose.distance(conv, product) == float("inf")
    assert choose.distance(conv, wider) == pytest.approx(1.0)
    assert choose.distance(conv, strided) >= choose.OTHER_CLASS


def test_the_problem_must_be_of_the_weight(tmp_path: Path) -> None:
    W = drawn()
    with pytest.raises(errors.ShapeError, match="is not one of W"):
        autotune.tune(W, problem(W, C=5), store=tmp_path, device="cpu")
    with pytest.raises(errors.InputError, match="a SpmmProblem, a ConvProblem or a positive N"):
        autotune.tune(W, "conv", store=tmp_path, device="cpu")  # type: ignore[arg-type]


def test_warmup_tunes_a_convolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, stride=2, padding=1))
    net[0].weight.data *= torch.rand_like(net[0].weight) < 0.2
    X = torch.randn(2, 4, 9, 9)
    result = autotune.warmup((net, X), device="cpu", seconds=0.5)
    (tuned,) = result.tuned
    assert isinstance(tuned.job.key.problem, ConvProblem) and not result.skipped
    Y = conv2d(X, net[0].weight, net[0].bias, 2, 1)
    torch.testing.assert_close(Y, net(X), rtol=1e-4, atol=1e-4)
    W = SparseFilter.from_dense(net[0].weight)
    call = ConvCall(X, net[0].bias, None, None, geometry_of((3, 3), 2, 1, 1, 1))
    chosen = choose.choose(problem_of(W.matrix, call), W.matrix.pattern_hash, Device.of(CPU))
    assert chosen.source == "stored"
