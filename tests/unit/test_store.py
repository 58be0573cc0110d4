"""The store on disk: what it writes, what it survives, and who sees what when."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from sparse_triton.atomic import write_atomically
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.problem import Epilogue, SpmmProblem
from sparse_triton.records import Best, Entry, Key, Timing, Trial
from sparse_triton.store import Store, as_store, default_store

DEVICE = Device("cpu", "Some CPU x2", 0, cores=2)
PROBLEM = SpmmProblem(64, 128, 256, 800, epilogue=Epilogue(bias=True, activation="relu"))


def key(n: int = 0) -> Key:
    return Key(PROBLEM, f"{n:064x}")


def entry(n: int = 0, us: float = 5.0) -> Entry:
    best = KernelConfig("cpu", M_blocks=4, N_blocks=2, Gy=2)
    trials = (
        Trial(KernelConfig("dense"), "ok", Timing(9.0, 8.9, 9.2), origin="dense"),
        Trial(best, "ok", Timing(us, us, us), compile_s=0.5, kernels=("A",)),
        Trial(replace(best, Gy=1), "wrong", why="far off"),
        Trial(replace(best, Gy=4), "slow", Timing(99.0, 98.0, 101.0), resources={"registers": 4}),
    )
    won = Best(best, Timing(us, us, us), Timing(9.0, 8.9, 9.2))
    return Entry(key(n), DEVICE, won, trials, {"triton": "3.6.0"}, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_was_put_is_got_by_any_process(store: Store) -> None:
    assert store.put(entry())
    assert store.get(key(), DEVICE) == entry()
    assert Store(store.root).get(key(), DEVICE) == entry()
    assert store.get(key(1), DEVICE) is None


def test_a_file_is_readable_and_has_its_key_in_clear(store: Store) -> None:
    store.put(entry())
    (path,) = store.root.rglob("*.json")
    assert path.relative_to(store.root).parts[:2] == ("v1", "some-cpu-x2")
    assert path.parent.name == path.stem[:2]
    text = path.read_text()
    assert '"pattern_hash"' in text and '"M": 64' in text
    assert json.loads(text)["best"]["config"]["M_blocks"] == 4
    trials = text.partition('"trials"')[2]
    assert trials.count("\n  {") == 4  # one line per trial


def test_values_are_not_in_the_key(store: Store) -> None:
    assert set(key().to_dict()) == {"kind", "pattern_hash", "problem"}


def test_another_problem_is_another_file(store: Store) -> None:
    store.put(entry())
    other = Key(replace(PROBLEM, N=257), key().pattern_hash)
    assert store.get(other, DEVICE) is None
    assert store.get(key(), replace(DEVICE, name="Other")) is None


def text_of(e: Entry, **changed: object) -> str:
    return json.dumps(json.loads(e.to_json()) | changed)


BROKEN = {
    "empty": "",
    "binary": b"\x00\xff\xfe\x80",
    "torn": entry().to_json()[:700],
    "not an object": "[1, 2]",
    "foreign schema": text_of(entry(), schema=99),
    "schema of a wrong type": text_of(entry(), schema=True),
    "no key": text_of(entry(), key=None),
    "foreign kind": text_of(entry(), key={"kind": "fft", "pattern_hash": "", "problem": {}}),
    "key of another file": entry(7).to_json(),
    "another device": text_of(entry(), device={"kind": "cpu", "name": "X", "arch": 0, "cores": 1}),
    "unknown field": entry().to_json().replace('"M_blocks"', '"Mblocks"'),
    "text for a number": entry().to_json().replace('"Gy": 2', '"Gy": "two"'),
    "no time": entry().to_json().replace('"us": 5.0', '"us": NaN'),
    "negative time": entry().to_json().replace('"us": 5.0', '"us": -5.0'),
    "foreign outcome": entry().to_json().replace('"wrong"', '"great"'),
    "trials of a wrong type": text_of(entry(), trials={"a": 1}),
    "resources of a wrong type": entry().to_json().replace('"registers": 4', '"registers": "x"'),
    "problem of another version": entry().to_json().replace('"batch": 1', '"batch": 1, "new": 2'),
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_set_aside_and_costs_only_itself(store: Store, kind: str) -> None:
    store.put(entry(0))
    store.put(entry(1))
    path = store.path(key(0), DEVICE.slug)
    content = BROKEN[kind]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fresh = Store(store.root)
    with pytest.warns(UserWarning, match="set aside"):
        assert fresh.get(key(0), DEVICE) is None
    assert not path.exists() and path.with_name(f"{path.name}.bad-0").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh.get(key(0), DEVICE) is None
        assert [e.key for e in fresh.entries()] == [key(1)]
        assert fresh.put(entry(0)) and fresh.get(key(0), DEVICE) == entry(0)


def test_set_aside_files_do_not_overwrite_each_other(store: Store) -> None:
    path = store.path(key(), DEVICE.slug)
    for n in range(3):
        write_atomically(path, f"broken {n}")
        with pytest.warns(UserWarning, match=f"bad-{n}"):
            assert Store(store.root).get(key(), DEVICE) is None
    assert len(list(store.root.rglob("*.bad-*"))) == 3


def test_a_folder_in_place_of_a_file_is_a_miss(store: Store) -> None:
    store.path(key(), DEVICE.slug).mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert store.get(key(), DEVICE) is None


def test_a_folder_that_takes_no_file_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert not store.put(entry())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.put(entry(us=4.0))
        assert store.get(key(), DEVICE) == entry(us=4.0)  # this process keeps it
        assert list(store.entries()) == [entry(us=4.0)]
    with pytest.warns(UserWarning, match="no lock"), store.lock(key(), DEVICE):
        pass


def test_another_process_is_seen(store: Store) -> None:
    other = Store(store.root)
    store.put(entry(us=5.0))
    assert other.get(key(), DEVICE) == entry(us=5.0)
    store.put(entry(us=4.0))
    assert other.get(key(), DEVICE) == entry(us=4.0)


@pytest.mark.parametrize("shift", [-(10**9), 10**8])
def test_clocks_do_not_decide_what_is_current(store: Store, shift: int) -> None:
    """Files may come from the past or the future; only "changed or not" is asked."""
    store.put(entry(us=5.0))
    path = store.path(key(), DEVICE.slug)
    other = Store(store.root)
    os.utime(path, (time.time() + shift,) * 2)
    assert other.get(key(), DEVICE) == entry(us=5.0)
    store.put(entry(us=4.0))
    os.utime(path, (time.time() + shift,) * 2)
    assert other.get(key(), DEVICE) == entry(us=4.0)


def test_readers_never_see_half_a_file(store: Store) -> None:
    small, big = (
        entry(),
        entry().with_trials(
            *(
                Trial(KernelConfig("cpu", M_blocks=m), "invalid", why="x" * 200)
                for m in range(5, 400)
            )
        ),
    )
    store.put(small)
    stop = threading.Event()

    def write() -> None:
        writer = Store(store.root)
        while not stop.is_set():
            writer.put(big)
            writer.put(small)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(200):
                assert Store(store.root).get(key(), DEVICE) in (small, big)
    finally:
        stop.set()
        thread.join()


def test_a_failed_write_leaves_the_old_file_and_no_debris(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(entry(us=5.0))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert not store.put(entry(us=4.0))
    assert Store(store.root).get(key(), DEVICE) == entry(us=5.0)
    assert not list(store.root.rglob("*.tmp"))
    assert store.get(key(), DEVICE) == entry(us=4.0)
    monkeypatch.undo()
    assert store.put(entry(us=3.0)) and Store(store.root).get(key(), DEVICE) == entry(us=3.0)


def test_a_lock_is_held_by_one(store: Store) -> None:
    with store.lock(key(), DEVICE):
        assert not store.lock(key(), DEVICE).acquire(wait=False)
        other = store.lock(key(1), DEVICE)
        assert other.acquire(wait=False)
        other.release()
    again = store.lock(key(), DEVICE)
    assert again.acquire(wait=False)
    again.release()


def test_changes_drop_what_was_drawn_from_the_store(store: Store) -> None:
    store.memo["x"] = 1
    store.put(entry())
    assert not store.memo
    store.memo["x"] = 1
    store.remove(entry())
    assert not store.memo and store.get(key(), DEVICE) is None


def test_a_configuration_s_later_trial_replaces_its_earlier_one() -> None:
    later = Trial(KernelConfig("dense"), "failed", why="gone")
    both = entry().with_trials(later)
    assert len(both.trials) == 4 and both.trials[0] == later
    assert both.outcomes() == {"failed": 1, "ok": 1, "wrong": 1, "slow": 1}


def test_the_folder_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path / "here"))
    assert default_store().root == tmp_path / "here"
    assert default_store() is default_store() is as_store(None)
    monkeypatch.delenv("SPARSE_TRITON_CACHE_DIR")
    assert default_store().root.name == "sparse-triton"
    assert as_store(tmp_path).root == tmp_path
