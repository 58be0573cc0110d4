"""Studies on recorded times: samplers, budgets, resuming, siblings, without the device."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.bench import DeviceLost
from autotune.budget import Budget, as_budget
from autotune.replay import FIELDS, ReplayBench, load, record
from autotune.search import PENALTY, Search, value_of
from autotune.space import DENSE, SearchSpace
from autotune.tuning import Study, TuneResult, Tuning
from sparse_triton.config import KernelConfig
from sparse_triton.errors import InputError, StoreError
from sparse_triton.heuristics import default_config
from sparse_triton.plan import why_not
from sparse_triton.records import Best, Entry, Timing, Trial
from sparse_triton.store import Store

RECORDING = Path(__file__).parents[1] / "data" / "replay_h100.json.gz"
STUDIES = load(RECORDING)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def study_of(
    store: Store, recording: Entry, budget: str | Budget = "quick", **options: object
) -> Study:
    limits = as_budget(budget) if isinstance(budget, str) else budget
    return Study(recording.key, recording.device, store, limits, **options)  # type: ignore[arg-type]


def run(
    store: Store,
    recording: Entry,
    budget: str | Budget = "quick",
    capacity: int = 1,
    stop_after: int | None = None,
    **options: object,
) -> tuple[TuneResult | None, ReplayBench, Tuning]:
    """A study to its end, or to where it is broken off."""
    bench = ReplayBench(recording, capacity)
    tuning = Tuning(study_of(store, recording, budget, **options), bench)
    while tuning.step():
        if stop_after is not None and tuning.measured >= stop_after:
            return None, bench, tuning
    return tuning.finish(), bench, tuning


def optimum(recording: Entry) -> float:
    return min(t.timing.us for t in recording.trials if t.timing)


def heuristic_us(recording: Entry) -> float:
    config = default_config(recording.key.problem, recording.device)
    timing = ReplayBench(recording).look_up(config).timing
    assert timing is not None
    return timing.us


# -- samplers and budgets --------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(STUDIES)))
def test_quick_finds_a_good_configuration_in_forty(store: Store, number: int) -> None:
    recording = STUDIES[number]
    result, bench, _ = run(store, recording)
    assert result is not None
    assert result.measured == len(bench.measured) <= 40
    assert result.us <= heuristic_us(recording) and result.us <= result.dense_us
    assert result.us <= 1.5 * optimum(recording)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_asks_the_same(tmp_path: Path, sampler: str) -> None:
    budget = as_budget("quick", sampler)
    asked = [run(Store(tmp_path / str(i)), STUDIES[0], budget, seed=3)[1].measured for i in (1, 2)]
    assert asked[0] == asked[1]
    other = run(Store(tmp_path / "3"), STUDIES[0], budget, seed=4)[1].measured
    assert other != asked[0]


def test_exhaustive_measures_every_legal_configuration_once(store: Store) -> None:
    recording = STUDIES[0]
    one = next(t.config for t in recording.trials if t.config.kernel == "gather")
    fields = {f: (getattr(one, f),) for f in FIELDS if f not in ("kernel", "Gy", "N_blocks")}
    space = SearchSpace({"gather": fields | {"N_blocks": (8, 16, 32, 64), "Gy": (1, 2, 4, 8)}})
    bench = ReplayBench(recording, capacity=8)
    tuning = Tuning(study_of(store, recording, "exhaustive"), bench)
    tuning.search.space, tuning.search.every = space, iter(space)
    while tuning.step():
        pass
    legal = {c for c in space if why_not(recording.key.problem, c, recording.device) is None}
    assert legal and legal <= set(bench.measured) and DENSE in bench.measured
    assert len(bench.measured) == len(set(bench.measured))


def test_dense_is_candidate_zero_and_heuristics_follow(store: Store) -> None:
    _, bench, tuning = run(store, STUDIES[2])
    assert bench.measured[0] == DENSE
    problem, device = STUDIES[2].key.problem, STUDIES[2].device
    assert default_config(problem, device) in bench.measured[:6]
    assert tuning.entry.trials[0].origin == "dense"


def test_wall_time_is_a_budget_too(store: Store) -> None:
    result, bench, _ = run(store, STUDIES[0], as_budget("full", seconds=0.0))
    assert result is not None and len(bench.measured) == 2  # dense, and one to start the clock
    assert result.entry.best is not None


def test_unknown_names_are_errors() -> None:
    with pytest.raises(InputError, match="budget must be one of quick, full, exhaustive"):
        as_budget("big")
    with pytest.raises(InputError, match="sampler must be one of"):
        as_budget("quick", "cma")


def test_invalid_configurations_cost_no_budget_and_have_reasons(store: Store) -> None:
    result, bench, _ = run(store, STUDIES[2])
    assert result is not None
    counts = result.entry.outcomes()
    assert counts["invalid"] > 0
    assert all(t.why for t in result.entry.trials if t.outcome in ("invalid", "failed"))
    assert len(bench.measured) == sum(counts.values()) - counts["invalid"]
    legal = [why_not(STUDIES[2].key.problem, c, STUDIES[2].device) for c in bench.measured]
    assert not any(legal)


def test_every_outcome_has_a_finite_value() -> None:
    for outcome in ("failed", "wrong", "invalid"):
        value = value_of(Trial(DENSE, outcome), dense_us=10.0)  # type: ignore[arg-type]
        assert value == math.log(10.0) + PENALTY
    slow = Trial(DENSE, "slow", Timing(100.0, 99.0, 101.0))
    assert value_of(slow, 10.0) == math.log(100.0) < math.log(10.0) + PENALTY


def test_spills_are_a_constraint(store: Store) -> None:
    recording = STUDIES[0]
    search = Search(
        SearchSpace.of(recording.key.problem, recording.device),
        as_budget("quick"),
        lambda config: None,
        lambda trial: None,
    )
    candidate = search.ask()
    assert candidate is not None
    timing = Timing(5.0, 5.0, 5.0)
    search.tell(Trial(candidate.config, "ok", timing, resources={"spill_bytes": 64}))
    assert search.study.trials[-1].constraints == {"spill_bytes": 64.0}


# -- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 7])
def test_an_interrupted_study_goes_on(store: Store, capacity: int) -> None:
    run(store, STUDIES[0], capacity=capacity, stop_after=11)
    stored = Store(store.root).get(STUDIES[0].key, STUDIES[0].device)
    assert stored is not None and stored.best is None
    kept = [t.config for t in stored.trials if t.outcome != "invalid"]
    assert len(kept) == 11
    result, second, _ = run(Store(store.root), STUDIES[0], capacity=capacity)
    assert result is not None and not set(kept) & set(second.measured)
    assert len(kept) + len(second.measured) == 40
    assert result.entry.best is not None


def test_a_second_run_measures_nothing(store: Store) -> None:
    first, _, _ = run(store, STUDIES[0])
    second, bench, _ = run(Store(store.root), STUDIES[0])
    assert first is not None and second is not None
    assert not bench.measured and second.entry.best == first.entry.best


def test_a_bigger_budget_measures_only_what_is_new(store: Store) -> None:
    _, quick, _ = run(store, STUDIES[0])
    result, full, _ = run(store, STUDIES[0], replace(as_budget("full"), trials=70))
    assert result is not None
    assert len(quick.measured) == 40 and len(full.measured) == 30
    assert not set(quick.measured) & set(full.measured)


def test_a_wider_space_measures_only_what_is_new(store: Store) -> None:
    recording = STUDIES[0]
    narrow = ReplayBench(recording, left_out={"unrolled": "not yet"})
    tuning = Tuning(study_of(store, recording), narrow)
    while tuning.step():
        pass
    tuning.finish()
    assert all(c.kernel != "unrolled" for c in narrow.measured)
    assert "unrolled left out: not yet" in tuning.entry.note
    _, wide, _ = run(store, recording, replace(as_budget("quick"), trials=60))
    assert not set(narrow.measured) & set(wide.measured)
    assert any(c.kernel == "unrolled" for c in wide.measured)


def test_a_stale_study_starts_over_from_its_best(store: Store) -> None:
    result, _, _ = run(store, STUDIES[0])
    assert result is not None
    store.put(replace(result.entry, env=result.entry.env | {"triton": "0.1"}))
    again, bench, _ = run(store, STUDIES[0])
    assert again is not None and result.config in bench.measured[:10]
    assert len(bench.measured) == 40 and again.entry.env["triton"] != "0.1"


def test_neighbours_are_seeds(store: Store) -> None:
    recording = STUDIES[1]
    heuristic = default_config(recording.key.problem, recording.device)
    theirs = next(t for t in recording.trials if t.timing and t.config not in (DENSE, heuristic))
    assert theirs.timing is not None
    sibling = replace(recording.key, pattern_hash="f" * 64)
    best = Best(theirs.config, theirs.timing, None)
    store.put(Entry(sibling, recording.device, best, (theirs,), {}, ""))
    _, bench, tuning = run(store, recording)
    assert theirs.config in bench.measured[:8]
    assert any(t.origin == "neighbour" for t in tuning.entry.trials)


def test_a_lost_device_costs_one_candidate_and_says_so(store: Store) -> None:
    class Losing(ReplayBench):
        def collect(self, best_us: float, timeout_s: float) -> Trial | None:
            trial = super().collect(best_us, timeout_s)
            if len(self.measured) == 5 and trial is not None:
                raise DeviceLost(trial.config, RuntimeError("illegal memory access"))
            return trial

    bench = Losing(STUDIES[0])
    tuning = Tuning(study_of(store, STUDIES[0]), bench)
    with pytest.raises(DeviceLost, match="start the same command again"):
        while tuning.step():
            pass
    result, again, _ = run(store, STUDIES[0])
    assert result is not None and bench.measured[4] not in again.measured
    assert result.entry.outcomes()["failed"] >= 1


# -- winners ---------------------------------------------------------------------------------------


def test_dense_wins_where_nothing_beats_it_beyond_noise(store: Store) -> None:
    dense = Timing(5.0, 4.9, 5.2)
    close = [
        replace(t, timing=Timing(4.95, 4.8, 5.1), outcome="ok") if t.timing else t
        for t in STUDIES[0].trials
    ]
    close[0] = Trial(DENSE, "ok", dense)
    result, _, _ = run(store, replace(STUDIES[0], trials=tuple(close)))
    assert result is not None and result.config == DENSE and result.speedup == 1.0


def test_wrong_and_failed_configurations_never_win(store: Store) -> None:
    bad = [
        t if t.config == DENSE else Trial(t.config, o, why="broken")  # type: ignore[arg-type]
        for t, o in zip(STUDIES[0].trials, ["wrong", "failed"] * 1000, strict=False)
    ]
    result, _, _ = run(store, replace(STUDIES[0], trials=tuple(bad)))
    assert result is not None and result.config == DENSE
    assert result.entry.outcomes()["wrong"] > 0 and result.entry.outcomes()["failed"] > 0


def test_without_any_success_there_is_no_winner(store: Store) -> None:
    bad = tuple(Trial(t.config, "failed", why="broken") for t in STUDIES[0].trials)
    result, _, _ = run(store, replace(STUDIES[0], trials=bad))
    assert result is not None and result.entry.best is None and math.isnan(result.us)


# -- recordings ------------------------------------------------------------------------------------


def test_a_recording_survives_the_round_trip(tmp_path: Path) -> None:
    assert record(STUDIES, tmp_path / "r.json.gz", "again") == len(STUDIES)
    again = load(tmp_path / "r.json.gz")
    assert [e.key for e in again] == [e.key for e in STUDIES]
    assert [t.config for t in again[0].trials] == [t.config for t in STUDIES[0].trials]


def test_the_fixture_is_small_and_labelled() -> None:
    assert RECORDING.stat().st_size < 300_000
    assert {study.device.name for study in STUDIES} == {"NVIDIA H100 80GB HBM3"}


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b"])
def test_another_file_is_no_recording(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(StoreError, match="is not a recording"):
        load(tmp_path / "r")


def test_an_unrecorded_configuration_takes_the_nearest_time() -> None:
    bench = ReplayBench(STUDIES[0])
    known = next(t for t in STUDIES[0].trials if t.config.kernel == "gather" and t.timing)
    odd = replace(known.config, N_blocks=known.config.N_blocks + 1)
    assert bench.look_up(odd).timing is not None
    assert bench.look_up(KernelConfig("cpu")).outcome == "failed"
