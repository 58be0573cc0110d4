"""Look-up order, the cost of a look-up, and tuning at the first call."""

from __future__ import annotations

import logging
import subprocess
import sys
import timeit
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sparse_triton as st
from sparse_triton import choose as c
from sparse_triton.choose import Choice, choose, distance, fitted, look_up
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, environment
from sparse_triton.errors import InputError
from sparse_triton.executor import forget
from sparse_triton.heuristics import default_config
from sparse_triton.problem import Epilogue, SpmmProblem
from sparse_triton.records import Best, Entry, Key, Timing, Trial
from sparse_triton.store import Store, default_store
from tests.support import weight

DEVICE = Device.of(torch.device("cpu"))
PROBLEM = SpmmProblem(256, 256, 256, 6553)
CONFIG = KernelConfig("cpu", M_blocks=8, N_blocks=4, Gy=2)
PATTERN, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(c.AUTOTUNE, raising=False)
    yield default_store()


def tuned(
    problem: SpmmProblem = PROBLEM, pattern: str = PATTERN, config: KernelConfig = CONFIG
) -> Entry:
    t = Timing(5.0, 5.0, 5.0)
    return Entry(
        Key(problem, pattern), DEVICE, Best(config, t, Timing(9.0, 9.0, 9.0)),
        (Trial(config, "ok", t),), environment(DEVICE), "2026-01-01",
    )  # fmt: skip


def test_nothing_stored_means_the_heuristic() -> None:
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert choice.source == "heuristic" and choice.config == default_config(PROBLEM, DEVICE)


def test_the_exact_problem_comes_first(store: Store) -> None:
    store.put(tuned(config=replace(CONFIG, Gy=1), pattern=OTHER))
    store.put(tuned())
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert (choice.source, choice.config, choice.us) == ("stored", CONFIG, 5.0)
    assert choice.dense_us == 9.0 and "5.00 us" in choice.why


def test_then_the_same_pattern_at_the_nearest_n_with_blocks_of_the_same_size(store: Store) -> None:
    store.put(tuned(replace(PROBLEM, N=128), config=replace(CONFIG, N_blocks=2)))
    store.put(tuned(replace(PROBLEM, N=1024), config=replace(CONFIG, N_blocks=64)))
    store.put(tuned(pattern=OTHER, config=replace(CONFIG, N_blocks=1)))
    choice = choose(replace(PROBLEM, N=192), PATTERN, DEVICE)
    assert choice.source == "nearest" and "this weight at N=128" in choice.why
    assert choice.config == replace(CONFIG, N_blocks=3)  # 64 columns each, as at N=128


def test_a_neighbour_too_far_in_n_is_not_asked(store: Store) -> None:
    store.put(tuned(replace(PROBLEM, N=1)))
    assert choose(PROBLEM, PATTERN, DEVICE).source == "heuristic"


def test_then_a_similar_weight(store: Store) -> None:
    M, nnz = PROBLEM.M, PROBLEM.nnz
    far = replace(PROBLEM, M=M * 7 // 8, nnz=nnz * 7 // 8)
    near = replace(PROBLEM, M=M * 15 // 16, nnz=nnz * 15 // 16)
    store.put(tuned(replace(PROBLEM, M=M // 2, nnz=nnz // 2), "d" * 64))
    assert choose(PROBLEM, PATTERN, DEVICE).source == "heuristic"
    store.put(tuned(far, OTHER, replace(CONFIG, Gy=1)))
    store.put(tuned(near, "c" * 64))
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert choice.source == "nearest" and "similar weight" in choice.why
    assert choice.config == replace(CONFIG, M_blocks=9)  # 30 rows each


def test_the_same_class_comes_before_a_nearer_one(store: Store) -> None:
    relu = Epilogue(activation="relu")
    store.put(tuned(replace(PROBLEM, N=250), config=replace(CONFIG, Gy=1)))
    store.put(tuned(replace(PROBLEM, N=200, epilogue=relu), config=replace(CONFIG, Gy=4)))
    wanted = replace(PROBLEM, N=256, epilogue=relu)
    assert choose(wanted, PATTERN, DEVICE).config.Gy == 4
    assert choose(PROBLEM, PATTERN, DEVICE).config.Gy == 1


def test_another_class_is_better_than_nothing(store: Store) -> None:
    store.put(tuned())
    wanted = replace(PROBLEM, epilogue=Epilogue(bias=True))
    assert choose(wanted, PATTERN, DEVICE).source == "nearest"


def test_what_is_not_legal_is_passed_over(store: Store) -> None:
    store.put(tuned(replace(PROBLEM, N=255), config=KernelConfig("gather")))  # not on a CPU
    store.put(tuned(replace(PROBLEM, N=128)))
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert choice.source == "nearest" and choice.config.kernel == "cpu"


def test_an_illegal_winner_gives_way_to_its_fastest_legal_trial(store: Store) -> None:
    entry = tuned(config=KernelConfig("gather"))
    slower = Trial(CONFIG, "ok", Timing(7.0, 7.0, 7.0))
    store.put(entry.with_trials(slower))
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert (choice.source, choice.config) == ("stored", CONFIG)


def test_an_unfinished_study_counts_with_its_fastest_trial(store: Store) -> None:
    store.put(replace(tuned(), best=None))
    choice = choose(PROBLEM, PATTERN, DEVICE)
    assert (choice.source, choice.config) == ("stored", CONFIG) and "unfinished" in choice.why


def test_other_devices_are_not_asked(store: Store) -> None:
    store.put(replace(tuned(), device=replace(DEVICE, name="Other")))
    assert choose(PROBLEM, PATTERN, DEVICE).source == "heuristic"


def test_stale_entries_are_used_and_said_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    c._mentioned.clear()
    for n in (256, 512):
        old = tuned(replace(PROBLEM, N=n))
        store.put(replace(old, env=old.env | {"triton": "1.0"}))
    with caplog.at_level(logging.WARNING, "sparse_triton"):
        for n in (256, 512):
            assert choose(replace(PROBLEM, N=n), PATTERN, DEVICE).source == "stored"
    assert len(caplog.records) == 1 and "triton 1.0 (now" in caplog.text


def test_a_change_of_the_store_is_seen_at_once(store: Store) -> None:
    assert choose(PROBLEM, PATTERN, DEVICE).source == "heuristic"
    store.put(tuned())
    assert choose(PROBLEM, PATTERN, DEVICE).source == "stored"
    store.remove(tuned())
    assert choose(PROBLEM, PATTERN, DEVICE).source == "heuristic"


def test_distance_is_zero_only_for_itself_and_grows() -> None:
    key = Key(PROBLEM, PATTERN)
    other = [Key(replace(PROBLEM, N=n), PATTERN) for n in (256, 300, 600, 720)]
    distances = [distance(key, k) for k in other]
    assert distances == sorted(distances) and distances[0] == 0
    assert distance(key, Key(PROBLEM, OTHER)) > distances[-1]
    assert distance(key, Key(replace(PROBLEM, N=4096), PATTERN)) == float("inf")
    for other_operands in ({"x_dtype": "float16"}, {"y_layout": "column"}):
        assert distance(key, Key(replace(PROBLEM, **other_operands), PATTERN)) == float("inf")


def test_fitted_never_leaves_zero_blocks() -> None:
    small = fitted(CONFIG, PROBLEM, replace(PROBLEM, M=1, N=1))
    assert (small.M_blocks, small.N_blocks) == (1, 1)


def test_a_look_up_costs_microseconds(store: Store) -> None:
    store.put(tuned())
    choose(PROBLEM, PATTERN, DEVICE)
    each = min(timeit.repeat(lambda: choose(PROBLEM, PATTERN, DEVICE), number=2000, repeat=9)) / 2e3
    print(f"\na repeated look-up costs {each * 1e6:.2f} us")
    assert each < 4 * 5e-6  # 5 us on a quiet machine


def test_a_first_look_up_among_many_entries_is_quick(store: Store) -> None:
    for n in range(200):
        store.put(tuned(replace(PROBLEM, N=100 + n), f"{n:064x}"))
    fresh = Store(store.root)
    look_up(Key(PROBLEM, PATTERN), DEVICE, fresh)  # reads the folder
    keys = [Key(replace(PROBLEM, K=250 + i), PATTERN) for i in range(20)]
    each = timeit.timeit(lambda: [look_up(k, DEVICE, fresh) for k in keys], number=1) / 20
    print(f"\na first look-up among 200 entries costs {each * 1e3:.2f} ms")
    assert each < 0.2


# -- the switch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["on", "1", "Quick"])
def test_an_unknown_mode_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(c.AUTOTUNE, value)
    with pytest.raises(InputError, match="must be off, quick or full"):
        st.spmm(weight("random", 8, 8), torch.ones(8, 3))


def test_by_default_nothing_is_tuned_and_the_tuner_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, torch, sparse_triton as st\n"
        "st.spmm(torch.eye(32), torch.ones(32, 8))\n"
        "assert 'autotune' not in sys.modules and 'optuna' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.rglob("*.json"))


def test_quick_tunes_at_the_first_call_and_only_there(
    store: Store, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import autotune

    calls = []
    original = autotune.tune

    def counted(*args: object, **options: object) -> object:
        calls.append(options)
        return original(*args, **options, seconds=0.3)  # type: ignore[arg-type]

    monkeypatch.setattr(autotune, "tune", counted)
    monkeypatch.setenv(c.AUTOTUNE, "quick")
    W, X = weight("random", 32, 64), torch.randn(64, 40)
    want = W.to_dense() @ X
    for _ in range(3):
        torch.testing.assert_close(st.spmm(W, X), want)
    assert [o["budget"] for o in calls] == ["quick"]
    problem = next(store.entries()).key.problem
    here = Device.of(torch.device("cpu"))
    assert choose(problem, W.pattern_hash, here).source == "stored"
    forget()
    st.spmm(W, X)
    assert len(calls) == 1


def test_the_choice_is_a_plain_value() -> None:
    assert Choice(CONFIG, "asked", "").us is None
