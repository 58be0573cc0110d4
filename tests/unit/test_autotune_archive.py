"""Archives: merging, what is refused, and kernels that need no compiling where they arrive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from triton import knobs

from autotune.archive import export_archive, import_archive, merge, select
from autotune.kernel_files import regrouped
from autotune.kernel_names import kernel_names
from autotune.prune import TEMPORARY_AGE_S, age_days, prune
from sparse_triton.build import forget
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device, environment
from sparse_triton.errors import StoreError
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm
from sparse_triton.records import Best, Entry, Key, Timing, Trial
from sparse_triton.store import Store
from tests.support import problem_for, weight

GPU = Device.virtual_cuda(90)
W = weight("random", 32, 64, 0.2)
PROBLEM = problem_for(W, 64)
CONFIG = FAMILIES["gather"].default_config(PROBLEM, GPU)
OTHER = replace(CONFIG, Gy=2 * CONFIG.Gy)
DENSE = KernelConfig("dense")


def entry(us: float = 5.0, config: KernelConfig = CONFIG, pattern: str = "a" * 64) -> Entry:
    t = Timing(us, us, us)
    trials = (
        Trial(DENSE, "ok", Timing(9.0, 9.0, 9.0), origin="dense"),
        Trial(config, "ok", t, kernels=("K",)),
    )
    best = Best(config, t, Timing(9.0, 9.0, 9.0))
    return Entry(Key(PROBLEM, pattern), GPU, best, trials, environment(GPU), "2026-01-01T00:00:00")


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    return Store(tmp_path / "ours")


def archive_of(path: Path, *entries: Entry, with_kernels: bool = False) -> Path:
    export_archive(entries, path, with_kernels)
    return path


# -- merging ---------------------------------------------------------------------------------------


def test_new_entries_arrive(tmp_path: Path, ours: Store) -> None:
    path = archive_of(tmp_path / "a.zip", entry(), entry(pattern="b" * 64))
    assert import_archive(path, ours) == {"new": 2, "merged": 0, "kept": 0, "broken": 0}
    assert ours.get(entry().key, GPU) == entry()
    assert import_archive(path, ours)["kept"] == 2


def test_trials_merge_and_a_better_entry_stays(tmp_path: Path, ours: Store) -> None:
    ours.put(entry(4.0))
    path = archive_of(tmp_path / "a.zip", entry(6.0, OTHER))
    assert import_archive(path, ours)["merged"] == 1
    merged = ours.get(entry().key, GPU)
    assert merged is not None and merged.best == entry(4.0).best
    assert {t.config for t in merged.trials} == {DENSE, CONFIG, OTHER}
    assert import_archive(path, ours)["kept"] == 1


def test_a_faster_winner_takes_over(tmp_path: Path, ours: Store) -> None:
    ours.put(entry(4.0))
    import_archive(archive_of(tmp_path / "a.zip", entry(3.0, OTHER)), ours)
    merged = ours.get(entry().key, GPU)
    assert merged is not None and merged.best is not None and merged.best.config == OTHER


def test_overwrite_takes_theirs(tmp_path: Path, ours: Store) -> None:
    ours.put(entry(4.0))
    import_archive(archive_of(tmp_path / "a.zip", entry(6.0)), ours, overwrite=True)
    merged = ours.get(entry().key, GPU)
    assert merged is not None and merged.best == entry(6.0).best and merged.trials[1].timing
    assert merged.trials[1].timing.us == 6.0


def test_times_of_other_versions_are_not_mixed() -> None:
    old = entry(3.0, OTHER)
    old = replace(old, env=old.env | {"triton": "1.0"})
    assert merge(entry(4.0), old, overwrite=False) == old
    assert merge(entry(2.0), old, overwrite=False) == entry(2.0)
    assert merge(None, old, overwrite=False) == old


def test_other_devices_are_stored_beside(tmp_path: Path, ours: Store) -> None:
    ours.put(entry(4.0))
    theirs = replace(entry(1.0), device=replace(GPU, name="Other GPU"))
    import_archive(archive_of(tmp_path / "a.zip", theirs), ours)
    assert ours.get(entry().key, GPU) == entry(4.0)
    assert [e.device.name for e in select(ours, device="other")] == ["Other GPU"]
    assert len(select(ours, pattern="a")) == 2 and not select(ours, pattern="b")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_another_file_is_no_archive(tmp_path: Path, ours: Store, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(StoreError, match="not a readable archive"):
        import_archive(tmp_path / "x.zip", ours)
    with pytest.raises(StoreError, match="not a readable archive"):
        import_archive(tmp_path / "none.zip", ours)


@pytest.mark.parametrize("manifest", [None, "{}", "[", '{"format": "x", "schema": 1}'])
def test_a_zip_of_something_else_is_no_archive(
    tmp_path: Path, ours: Store, manifest: str | None
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr("other" if manifest is None else "manifest.json", manifest or "")
    with pytest.raises(StoreError):
        import_archive(tmp_path / "x.zip", ours)


def test_a_broken_entry_costs_only_itself(tmp_path: Path, ours: Store) -> None:
    path = archive_of(tmp_path / "a.zip", entry())
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("entries/x/broken.json", "{")
        z.writestr("entries/x/foreign.json", '{"schema": 99}')
    assert import_archive(path, ours) == {"new": 1, "merged": 0, "kept": 0, "broken": 2}


def test_nothing_is_written_outside(
    tmp_path: Path, ours: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "deep" / "cache"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    folder = "A" * 52
    path = archive_of(tmp_path / "a.zip")
    bad = [
        "kernels/../../evil.so",
        f"kernels/{folder}/../../evil.so",
        f"kernels/{folder}/../evil.so",
        "kernels//evil.so",
        "/kernels/x/evil.so",
        f"kernels/{folder}/deep/evil.so",
        f"kernels/{folder}/evil.sh",
        f"kernels/{folder}/.evil.so",
        "kernels/short/evil.so",
        "../evil.json",
    ]
    with zipfile.ZipFile(path, "a") as z:
        for name in bad:
            z.writestr(name, "evil")
        z.writestr("entries/../../../evil.json", entry().to_json())
        z.writestr(f"kernels/{folder}/good.cubin", "fine")
    summary = import_archive(path, ours, with_kernels=True)
    assert summary["kernels"] == 1 and summary["files refused"] >= 7
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["good.cubin"]
    assert not [p for p in tmp_path.rglob("*evil*")]
    assert ours.get(entry().key, GPU) == entry()  # its place follows from its content


# -- kernels ---------------------------------------------------------------------------------------


def test_kernels_arrive_ready(tmp_path: Path, ours: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled here, exported, imported into another cache: building there compiles nothing."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "here"))
    forget()
    plan = plan_spmm(PROBLEM, CONFIG, W.csr, GPU)
    kernel = plan.family.build(plan)
    with kernel_names(kernel) as names:
        pass
    tuned = entry()
    winner = replace(tuned.trials[1], kernels=tuple(names))
    tuned = tuned.with_trials(winner)
    path = tmp_path / "a.zip"
    summary = export_archive([tuned], path, with_kernels=True)
    assert summary == {"entries": 1, "kernels": 1, "kernels missing": 0}
    shutil.rmtree(tmp_path / "here")

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "there"))
    assert import_archive(path, ours)["kernels left out (see --with-kernels)"] == 1
    assert not (tmp_path / "there").exists()
    assert import_archive(path, ours, with_kernels=True)["kernels"] == 1
    hits: list[bool] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **e: hits.append(e["cache_hit"]))
    forget()
    there = plan.family.build(plan)
    assert hits == [True]
    assert there.compiled.asm["cubin"] == kernel.compiled.asm["cubin"]  # type: ignore[attr-defined]


def test_a_moved_cache_without_new_paths_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the group files are rewritten. If Triton ever stops missing, that can go."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "here"))
    forget()
    plan = plan_spmm(PROBLEM, CONFIG, W.csr, GPU)
    plan.family.build(plan)
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "there"))
    hits: list[bool] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **e: hits.append(e["cache_hit"]))
    forget()
    plan.family.build(plan)
    assert hits == [False]


def test_kernels_that_are_gone_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "empty"))
    summary = export_archive([entry()], tmp_path / "a.zip", with_kernels=True)
    assert summary == {"entries": 1, "kernels": 0, "kernels missing": 1}


def test_group_files_point_into_their_folder(tmp_path: Path) -> None:
    text = json.dumps({"child_paths": {"k.cubin": "/old/k.cubin", "../x": "/etc/passwd"}})
    assert json.loads(regrouped(text, tmp_path))["child_paths"] == {
        "k.cubin": str(tmp_path / "k.cubin"),
        "../x": str(tmp_path / "x"),
    }


# -- prune -----------------------------------------------------------------------------------------


def test_prune_removes_debris_and_only_what_it_is_told(ours: Store) -> None:
    old = replace(entry(pattern="b" * 64), env={"triton": "1.0"})
    ours.put(entry())
    ours.put(old)
    path = ours.path(entry().key, GPU.slug)
    (path.parent / "x.json.bad-0").write_text("")
    fresh, left = path.parent / "y.json.1-a.tmp", path.parent / "z.json.2-b.tmp"
    for tmp in (fresh, left):
        tmp.write_text("")
    os.utime(left, (left.stat().st_mtime - 2 * TEMPORARY_AGE_S,) * 2)
    assert len(prune(ours, dry_run=True)) == 2 and left.exists()
    prune(ours)
    assert fresh.exists() and not left.exists() and len(list(ours.entries())) == 2
    prune(ours, stale_ones=True)
    assert [e.key for e in ours.entries()] == [entry().key]
    prune(ours, pattern="b", everything=True)
    assert len(list(ours.entries())) == 1
    prune(ours, older_than_days=1)
    assert not list(ours.entries())


@pytest.mark.parametrize("created", ["2999-01-01T00:00:00+00:00", "nonsense", ""])
def test_entries_from_the_future_have_no_age(created: str) -> None:
    assert age_days(replace(entry(), created=created)) == 0.0


def test_the_archive_can_be_read_by_a_fresh_process(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", entry())
    command = [
        sys.executable,
        "-m",
        "autotune",
        "import",
        str(path),
        "--store",
        str(tmp_path / "s"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["new"] == 1
