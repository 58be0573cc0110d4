"""Compiling in child processes: what comes back, and children that die, hang or never start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from triton import knobs

from autotune import compile_pool as pool_module
from autotune import parcel, worker
from autotune.bench import LiveBench, _too_slow
from autotune.compile_pool import CompilePool
from autotune.kernel_names import kernel_names
from autotune.worker import Built, Job, save_csr
from sparse_triton.build import TritonKernel, parts_of
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError
from sparse_triton.kernels import FAMILIES
from tests.support import problem_for, weight

GPU = Device.virtual_cuda(90)
W = weight("random", 32, 64, 0.2)
PROBLEM = problem_for(W, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.fixture
def pool() -> Iterator[CompilePool]:
    with CompilePool(1, timeout_s=120) as pool:
        yield pool


def job(pool: CompilePool, config: KernelConfig) -> Job:
    number = pool.number()
    csr = pool.folder / "w.npz"
    save_csr(W.csr, csr)
    return Job(number, csr, PROBLEM, config, GPU, pool.folder / f"{number}.parcel")


def result(pool: CompilePool, number: int, limit_s: float = 120.0) -> Built:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        for built in pool.take({number}, 1.0):
            return built
    raise AssertionError("no result in time")


def default(family: str = "gather") -> KernelConfig:
    return FAMILIES[family].default_config(PROBLEM, GPU)


def test_children_fill_the_cache_and_the_parent_compiles_nothing(
    pool: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(pool, default("gather")), job(pool, default("unrolled"))]
    for each in jobs:
        pool.submit(each)
    hits = []
    monkeypatch.setattr(
        knobs.compilation, "listener", lambda **event: hits.append(event["cache_hit"])
    )
    for each in jobs:
        built = result(pool, each.number)
        assert built.why == "" and built.seconds > 0 and not built.timed_out
        kernel = parcel.unpack(each.parcel)
        assert isinstance(kernel, TritonKernel) and "cubin" in kernel.compiled.asm
        with kernel_names(kernel) as names:
            pass
        assert (Path(knobs.cache.dir) / names[0]).is_dir()
    assert hits == [True, True]


def test_a_kernel_of_several_launches_travels_whole(pool: CompilePool) -> None:
    problem = problem_for(W, 64, x_layout="column", y_layout="column")
    config = FAMILIES["turned"].default_config(problem, GPU)
    each = replace(job(pool, config), problem=problem)
    pool.submit(each)
    assert result(pool, each.number).why == ""
    kernel = parcel.unpack(each.parcel)
    with kernel_names(kernel) as names:
        pass
    assert len(parts_of(kernel)) == 2 == len(set(names))
    assert all((Path(knobs.cache.dir) / name).is_dir() for name in names)


def test_an_illegal_job_fails_with_words(pool: CompilePool) -> None:
    bad = job(pool, KernelConfig("gather", Gy=0))
    pool.submit(bad)
    assert "Gy must be at least 1, got 0" in result(pool, bad.number).why


def test_a_killed_child_costs_its_job_only(
    pool: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = job(pool, default()), job(pool, default())
    pool.submit(first)
    while not pool.workers[0].ready:
        pool.take(set(), 0.2)
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    pool.submit(second)
    built = result(pool, first.number)
    assert built.why == "" or "ended its process" in built.why  # it may have been quick
    assert result(pool, second.number).number == second.number
    third = job(pool, default())
    pool.submit(third)
    assert result(pool, third.number).why == ""


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Workers whose compiler does ``body``."""
    (tmp_path / "standin.py").write_text(
        "import sys, time, os\nfrom autotune import worker\n"
        f"def build(job):\n{body}\n"
        "worker.build = build\nmain = worker.main\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    original = pool_module.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        replaced = [a.replace("from autotune.worker", "from standin") for a in command]
        return original(replaced, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(pool_module.subprocess, "Popen", popen)


def test_a_compiler_that_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(
        monkeypatch,
        tmp_path,
        "    if job.config.Gy == 2:\n"
        "        print('LLVM ERROR: no such thing', file=sys.stderr, flush=True)\n"
        "        os.abort()\n"
        "    return worker.Built(job.number, '', 0.1)",
    )
    with CompilePool(1, timeout_s=60) as pool:
        jobs = [job(pool, KernelConfig("gather", Gy=g)) for g in (1, 2, 4)]
        for each in jobs:
            pool.submit(each)
        whys = [result(pool, each.number).why for each in jobs]
    assert whys[0] == whys[2] == ""
    assert "ended its process" in whys[1] and "LLVM ERROR: no such thing" in whys[1]


def test_a_compiler_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(
        monkeypatch,
        tmp_path,
        "    time.sleep(1000 if job.config.Gy == 2 else 0)\n"
        "    return worker.Built(job.number, '', 0.1)",
    )
    with CompilePool(1, timeout_s=1.0) as pool:
        jobs = [job(pool, KernelConfig("gather", Gy=g)) for g in (2, 4)]
        for each in jobs:
            pool.submit(each)
        hung, fine = (result(pool, each.number) for each in jobs)
    assert hung.timed_out and "not compiled within 1 s" in hung.why
    assert fine.why == "" and not fine.timed_out


def test_workers_that_never_start_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, "    pass\nraise ImportError('half installed')")
    monkeypatch.setattr(pool_module, "MAX_FAILED_STARTS", 1)
    with (
        CompilePool(1) as pool,
        pytest.raises(BuildError, match=r"do not start: .*half installed"),
    ):
        each = job(pool, default())
        pool.submit(each)
        result(pool, each.number)


def test_cancelled_jobs_leave_nothing(pool: CompilePool) -> None:
    jobs = [job(pool, default()) for _ in range(3)]
    for each in jobs:
        pool.submit(each)
    pool.cancel({each.number for each in jobs[:2]})
    assert result(pool, jobs[2].number).why == ""
    assert not pool.queue and not pool.results


def test_families_that_take_too_long_are_left_out(pool: CompilePool) -> None:
    pool.timeout_s = 20.0
    pool.note("unrolled", 26_000, 8.0)
    pool.note("gather", 1_000_000, 2.0)
    assert not _too_slow(pool, PROBLEM)
    big = problem_for(weight("random", 512, 512, 0.5), 64)
    left_out = _too_slow(pool, big)
    assert set(left_out) == {"unrolled"} and "would take about" in left_out["unrolled"]


def test_after_two_time_outs_a_family_is_not_compiled_again(pool: CompilePool) -> None:
    import torch

    bench = LiveBench(W, PROBLEM, torch.device("cpu"), pool)
    bench.facts = GPU
    bench.timeouts["unrolled"] = 2
    bench.submit(default("unrolled"), "test")
    trial = bench.collect(1.0, 1.0)
    assert trial is not None and trial.outcome == "failed" and "took too long" in trial.why


def test_the_worker_s_own_loop_reports_errors(tmp_path: Path) -> None:
    built = worker.build(Job(7, tmp_path / "none.npz", PROBLEM, default(), GPU, tmp_path / "p"))
    assert built.number == 7 and "FileNotFoundError" in built.why


def test_children_need_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from autotune.compile_pool import CompilePool\n"
        "from autotune.worker import Job\n"
        "from pathlib import Path\n"
        "pool = CompilePool(1)\n"
        "pool.submit(Job(1, Path('none.npz'), None, None, None, Path('p')))\n"
        "while not (done := pool.take({1}, 5.0)): pass\n"
        "print(done[0].why)\npool.close()\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "Error" in done.stdout, done.stderr
