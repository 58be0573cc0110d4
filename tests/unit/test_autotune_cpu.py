"""Real tuning on the cpu family: seconds, and the result is used at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
import sparse_triton as st
from autotune.bench import LiveBench
from autotune.replay import load, record
from sparse_triton.choose import choose
from sparse_triton.device import Device
from sparse_triton.errors import CaptureError, DeviceError, InputError, ShapeError
from sparse_triton.heuristics import default_config
from sparse_triton.problem import Epilogue
from sparse_triton.records import Trial
from sparse_triton.store import Store, default_store
from tests.support import problem_for, weight

CPU = torch.device("cpu")
MATRICES = [
    (M, K, N, density)
    for (M, K, N), density in zip(
        [(64, 256, 196), (256, 64, 100), (128, 128, 64), (96, 512, 49), (512, 128, 33)] * 2,
        [0.1] * 5 + [0.04] * 5,
        strict=True,
    )
]
SMALL = autotune.Budget("small", 14, 3.0, "tpe")
NOISE = 1.15


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    return default_store()


def test_tuned_is_at_least_as_fast_as_the_heuristic(store: Store) -> None:
    """On nine of ten matrices, measured again side by side."""
    wins, lines = 0, []
    for i, (M, K, N, density) in enumerate(MATRICES):
        W = weight("random", M, K, density, seed=i)
        result = autotune.tune(W, N, SMALL, device=CPU)
        bench = LiveBench(W, result.entry.key.problem, CPU)
        heuristic = default_config(result.entry.key.problem, Device.of(CPU))
        tuned, plain = bench.compare([result.config, heuristic])
        wins += tuned.us <= NOISE * plain.us
        lines.append(f"{M}x{K}x{N} {density:.0%}: {tuned.us:.1f}, heuristic {plain.us:.1f} us")
    print("\n" + "\n".join(lines))
    assert wins >= 9, lines


def test_the_winner_takes_effect_at_once(store: Store) -> None:
    W, X = weight("random", 48, 96), torch.randn(96, 40)
    before = st.spmm(W, X)
    assert W.launchers
    result = autotune.tune(W, 40, SMALL, device="cpu")
    assert not W.launchers
    choice = choose(result.entry.key.problem, W.pattern_hash, Device.of(CPU))
    assert (choice.source, choice.config) == ("stored", result.config)
    torch.testing.assert_close(st.spmm(W, X), before)


def test_a_second_call_measures_nothing_and_a_tensor_is_a_weight(store: Store) -> None:
    w = weight("random", 32, 32).to_dense()
    first = autotune.tune(w, 16, SMALL, device="cpu")
    trials: list[Trial] = []
    second = autotune.tune(w, 16, SMALL, device="cpu", on_trial=trials.append)
    assert first.measured > 0 and second.measured == 0 and not trials
    assert second.entry.best == first.entry.best
    assert "x dense" in str(second)


def test_dense_wins_for_a_full_matrix(store: Store) -> None:
    result = autotune.tune(weight("full", 256, 256), 256, SMALL, device="cpu")
    assert result.us <= NOISE * result.dense_us


@pytest.mark.parametrize("layout", ["row", "column"])
def test_whole_problems_can_be_tuned(store: Store, layout: Any) -> None:
    W = weight("random", 32, 48)
    problem = problem_for(
        W, 20, x_layout=layout, y_layout=layout, epilogue=Epilogue(bias=True, activation="relu")
    )
    result = autotune.tune(W, problem, autotune.Budget("tiny", 5, 2.0, "random"), device="cpu")
    assert result.entry.outcomes()["wrong"] == result.entry.outcomes()["failed"] == 0
    assert result.entry.best is not None


def test_a_weight_without_entries_can_be_tuned(store: Store) -> None:
    W = st.SparseMatrix.from_dense(torch.zeros(8, 8))
    result = autotune.tune(W, 4, SMALL, device="cpu")
    assert result.entry.best is not None and result.us <= NOISE * result.dense_us


def test_interrupted_tuning_goes_on(store: Store) -> None:
    W = weight("random", 32, 64)

    def interrupt(trial: Trial) -> None:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(trial)

    seen: list[Trial] = []
    with pytest.raises(KeyboardInterrupt):
        autotune.tune(W, 30, SMALL, device="cpu", on_trial=interrupt)
    (entry,) = Store(store.root).entries()
    done = {t.config for t in entry.trials if t.outcome != "invalid"}
    assert len(done) == 5 and entry.best is None
    again: list[Trial] = []
    result = autotune.tune(W, 30, SMALL, device="cpu", on_trial=again.append)
    assert not done & {t.config for t in again} and result.entry.best is not None


def test_an_exhaustive_run_becomes_a_recording(store: Store, tmp_path: Path) -> None:
    budget = dataclasses.replace(autotune.BUDGETS["exhaustive"], seconds=1.0)
    result = autotune.tune(weight("random", 8, 16), 8, budget, device="cpu")
    record([result.entry], tmp_path / "r.json.gz")
    (again,) = load(tmp_path / "r.json.gz")
    timed = [t for t in result.entry.trials if t.outcome != "invalid"]
    assert [t.config for t in again.trials] == [t.config for t in timed]


def test_arguments_are_checked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    W = weight("random", 8, 16)
    with pytest.raises(ShapeError, match="is not one of W"):
        autotune.tune(W, problem_for(weight("random", 8, 8), 4), device="cpu")
    for bad in (0, -1, True, 2.5, "4"):
        with pytest.raises(InputError, match="positive N"):
            autotune.tune(W, bad, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="cpu and cuda"):
        autotune.tune(W, 4, device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no GPU"):
            autotune.tune(W, 4, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(CaptureError, match="tune before it"):
        autotune.tune(W, 4, device="cuda")
