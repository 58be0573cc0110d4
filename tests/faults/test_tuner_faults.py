"""Processes that are killed, disks that are full, two tuners at once: nothing finished is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import autotune
from autotune import interrupt
from sparse_triton.choose import choose
from sparse_triton.device import Device
from sparse_triton.records import Entry
from sparse_triton.store import Store
from tests.support import weight

CPU = torch.device("cpu")
BUDGET = autotune.Budget("small", 8, 20.0, "tpe")

# A tuner that says each finished trial aloud. ``CRUEL`` runs at each trial.
TUNER = """
import sys, time, os, signal, torch, autotune
from sparse_triton import store as store_module
from tests.support import weight
store_path, cruel = sys.argv[1:3]
count = 0
def on_trial(trial):
    global count
    count += 1
    print(trial.config.to_dict(), flush=True)
    exec(cruel)
exec(os.environ.get("BEFORE", ""))
W = weight("random", 32, 64)
autotune.tune(W, 30, autotune.Budget("small", 8, 20.0, "tpe"), store_path, device="cpu",
              on_trial=on_trial)
print("done", flush=True)
"""


def tuner(store: Path, cruel: str = "pass", before: str = "") -> subprocess.Popen[str]:
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in ["", *sys.path]),
        "BEFORE": before,
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", TUNER, str(store), cruel],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


pytestmark = pytest.mark.usefixtures("one_thread")


def finished(store: Path) -> list[str]:
    """Configurations on disk, read by a fresh store without a complaint."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = list(Store(store).entries())
    return [str(t.config.to_dict()) for e in entries for t in e.trials if t.outcome != "invalid"]


def resumed(store: Path) -> Entry:
    result = autotune.tune(weight("random", 32, 64), 30, BUDGET, store, device=CPU)
    assert result.entry.best is not None
    return result.entry


def test_kill_9_during_a_trial(tmp_path: Path) -> None:
    """The fourth trial never ends; the three before it are there."""
    process = tuner(tmp_path, "count == 3 and os.kill(os.getpid(), signal.SIGKILL)")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert finished(tmp_path) == said.splitlines() and len(said.splitlines()) == 3
    entry = resumed(tmp_path)  # the lock died with its holder
    assert [str(t.config.to_dict()) for t in entry.trials[:1]] == said.splitlines()[:1]
    assert set(said.splitlines()) <= set(finished(tmp_path))
    assert sum(t.outcome != "invalid" for t in entry.trials) == 8


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_kill_9_during_a_store_write(tmp_path: Path, where: str) -> None:
    """Half-way through the third write: the second is what there is, whole."""
    before = (
        f"original, writes = os.{where}, []\n"
        f"def dies(*args):\n"
        f"    if str(args[-1]).endswith('.json') or '{where}' == 'fsync':\n"
        f"        writes.append(1)\n"
        f"    if len(writes) == 3:\n"
        f"        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"    return original(*args)\n"
        f"os.{where} = dies\n"
    )
    process = tuner(tmp_path, before=before)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert finished(tmp_path) == said.splitlines()[:2] and len(finished(tmp_path)) == 2
    assert list(tmp_path.rglob("*.tmp"))  # left behind, harmless
    assert sum(t.outcome != "invalid" for t in resumed(tmp_path).trials) == 8


def test_ctrl_c(tmp_path: Path) -> None:
    process = tuner(tmp_path, "count == 2 and os.kill(os.getpid(), signal.SIGINT)")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "done" not in said
    assert finished(tmp_path) == said.splitlines()
    resumed(tmp_path)


def test_ctrl_c_on_the_command_line(tmp_path: Path) -> None:
    """SIGINT from outside, while children and bars are about: status 130 and a word on resuming."""
    code = (
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    m = torch.nn.Sequential(*(torch.nn.Linear(64, 64 + i) for i in range(1)),\n"
        "                            *(torch.nn.Linear(64 + i, 65 + i) for i in range(40)))\n"
        "    for p in m.parameters():\n"
        "        p.data *= torch.rand_like(p) < 0.1\n"
        "    return m, torch.ones(7, 64)\n"
    )
    (tmp_path / "manymodel.py").write_text(code)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "autotune", "warmup", "manymodel:make", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--store", str(tmp_path / "store")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 90
    while not finished(tmp_path / "store") and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors and "Traceback" not in errors
    assert finished(tmp_path / "store")


def test_two_tuners_on_one_store_share_the_work(tmp_path: Path) -> None:
    processes = [tuner(tmp_path) for _ in range(2)]
    said = [p.communicate(timeout=180)[0].splitlines() for p in processes]
    assert all(s[-1] == "done" for s in said)
    configs = [line for s in said for line in s[:-1]]
    assert sorted(configs) == sorted(set(configs)) and len(configs) == 8
    assert sorted(finished(tmp_path)) == sorted(configs)


@pytest.mark.filterwarnings("ignore:the store")
def test_a_full_disk_costs_the_file_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third write on there is no space: what was written stays, the run goes on."""
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    original, writes = os.fsync, []

    def full(fd: int) -> None:
        writes.append(fd)
        if len(writes) > 2:
            raise OSError(28, "No space left on device")
        original(fd)

    monkeypatch.setattr(os, "fsync", full)
    W = weight("random", 32, 64)
    with pytest.warns(UserWarning, match="No space left"):
        result = autotune.tune(W, 30, BUDGET, device=CPU)
    assert result.measured == 8 and result.entry.best is not None
    assert choose(result.entry.key.problem, W.pattern_hash, Device.of(CPU)).source == "stored"
    assert len(finished(tmp_path)) == 2
    monkeypatch.setattr(os, "fsync", original)
    assert len(resumed(tmp_path).trials) >= 8


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A tiny file system, where the system lets us have one."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mount)], capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("no permission to mount")
    try:
        (mount / "filler").write_bytes(b"x" * 12 * 1024)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = autotune.tune(weight("random", 32, 64), 30, BUDGET, mount, device=CPU)
        assert result.entry.best is not None
        assert any("cannot be written" in str(w.message) for w in caught)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_corruption_between_two_runs(tmp_path: Path) -> None:
    """A torn file is set aside and its weight tuned anew; the other weight keeps its trials."""
    for seed in (0, 1):
        autotune.tune(weight("random", 32, 64, seed=seed), 30, BUDGET, tmp_path, device=CPU)
    entries = list(Store(tmp_path).entries())
    torn = Store(tmp_path).path(entries[0].key, entries[0].device.slug)
    torn.write_text(torn.read_text()[:500])
    with pytest.warns(UserWarning, match="set aside"):
        left = list(Store(tmp_path).entries())
    assert [e.key for e in left] == [entries[1].key] and left[0] == entries[1]
    for seed in (0, 1):
        autotune.tune(weight("random", 32, 64, seed=seed), 30, BUDGET, tmp_path, device=CPU)
    assert len(list(Store(tmp_path).entries())) == 2


@pytest.mark.parametrize("shift_s", [-(10**8), 10**8])
def test_clock_skew(tmp_path: Path, shift_s: int) -> None:
    """Files and records from another century are used like any other."""
    first = resumed(tmp_path)
    for path in tmp_path.rglob("*.json"):
        data = json.loads(path.read_text())
        data["created"] = "2150-01-01T00:00:00+00:00" if shift_s > 0 else "1970-01-01T00:00:00"
        path.write_text(json.dumps(data))
        os.utime(path, (time.time() + shift_s,) * 2)
    again = autotune.tune(weight("random", 32, 64), 30, BUDGET, tmp_path, device=CPU)
    assert again.measured == 0 and again.entry.best == first.best


def test_a_swallowed_interrupt_is_raised_at_the_next_step() -> None:
    with interrupt.noticed():
        with contextlib.suppress(KeyboardInterrupt):  # as a callback from C does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    interrupt.check()


def test_a_swallowed_interrupt_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud:
        def __init__(self, ends: Callable[[], object]) -> None:
            self.ends = ends

        def __del__(self) -> None:  # what it raises, the interpreter prints and ignores
            self.ends()

    printed: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda swallowed: printed.append(swallowed.exc_type))
    with interrupt.noticed():
        Loud(lambda: signal.raise_signal(signal.SIGINT))
        Loud(lambda: 1 // 0)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert printed == [ZeroDivisionError]
