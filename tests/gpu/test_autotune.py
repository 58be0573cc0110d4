"""The tuner on a GPU: everything that only a device can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
import sparse_triton as st
from autotune.bench import LiveBench
from autotune.compile_pool import CompilePool
from autotune.lab import Lab, quiet
from autotune.space import DENSE
from autotune.timing import GraphTimer, full_precision
from sparse_triton.choose import choose
from sparse_triton.device import Device
from sparse_triton.errors import CaptureError
from sparse_triton.heuristics import default_config
from sparse_triton.kernel import Run
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue
from sparse_triton.records import Trial
from sparse_triton.store import Store
from tests.support import problem_for, weight

pytestmark = pytest.mark.gpu
GPU = "cuda:0"
SMALL = autotune.Budget("small", 14, 60.0, "tpe", compile_s=60.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["row", "column"])
def test_tuning_verifies_times_and_takes_effect(store: Store, dtype: str, layout: Any) -> None:
    W = weight("random", 128, 256, 0.1).to(GPU)
    epilogue = Epilogue(bias=True, activation="relu")
    problem = problem_for(
        W, 196, x_dtype=dtype, x_layout=layout, y_layout=layout, epilogue=epilogue
    )
    trials: list[Trial] = []
    result = autotune.tune(W, problem, SMALL, device=GPU, jobs=4, on_trial=trials.append)
    counts = result.entry.outcomes()
    print("\n", result, [t.why for t in trials if t.why])
    assert trials[0].config == DENSE and trials[0].outcome == "ok"
    assert counts["wrong"] == 0 and counts["failed"] == 0 and counts["ok"] >= 2
    assert result.us <= result.dense_us
    timed = [t for t in trials if t.timing and t.config != DENSE]
    assert all(t.resources["registers"] > 0 and t.kernels for t in timed)
    choice = choose(problem, W.pattern_hash, Device.of(torch.device(GPU)))
    assert (choice.source, choice.config) == ("stored", result.config)
    assert autotune.tune(W, problem, SMALL, device=GPU, jobs=4).measured == 0


def test_a_wrong_kernel_is_seen(store: Store) -> None:
    W = weight("random", 64, 64, 0.2).to(GPU)
    device = torch.device(GPU)
    with quiet(device):
        lab = Lab(W, problem_for(W, 100), device)
        config = default_config(lab.problem, Device.of(device))
        plan = plan_spmm(lab.problem, config, W.csr, Device.of(device))
        run: Run = plan.family.build(plan).bind(device)
        assert lab.check(run, config) == ""

        def off(X: Any, Y: Any, *rest: Any) -> None:
            run(X, Y, *rest)
            Y[0, 7, 9] *= 1.001

        assert "times the error bound" in lab.check(off, config)


def test_graph_times_are_those_of_the_call(store: Store) -> None:
    device = torch.device(GPU)
    a = torch.randn(2048, 2048, device=device)
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, a, out=out)

    with quiet(device):
        timer = GraphTimer(product)
        samples = sorted(timer.samples(11))
        torch.cuda.synchronize()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(20):
            product()
        stop.record()
        stop.synchronize()
    assert samples[5] == pytest.approx(start.elapsed_time(stop) * 1e3 / 20, rel=0.3)


@pytest.mark.parametrize("switch", ["older", "newer", "none"])
def test_dense_is_timed_in_full_precision_whatever_is_set(switch: str) -> None:
    a = torch.randn(512, 512, device=GPU)
    exact = a.double() @ a.double()
    code = {
        "older": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        "newer": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        "none": lambda: None,
    }
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        code[switch]()
        with full_precision():
            error = (a @ a - exact).abs().max()
        assert float(error) < 1e-3
    finally:
        if switch == "older":
            torch.backends.cuda.matmul.allow_tf32 = False
        else:
            torch.backends.cuda.matmul.fp32_precision = before


def test_nothing_is_tuned_inside_a_capture(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_AUTOTUNE", "quick")
    W, X = weight("random", 32, 64).to(GPU), torch.randn(64, 40, device=GPU)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(CaptureError), torch.cuda.graph(graph):
        st.spmm(W, X)
    torch.cuda.synchronize()
    assert not list(store.entries())


def test_a_warm_up_on_the_gpu(store: Store, tmp_path: Path) -> None:
    model = {f"layer_{i}": weight("random", 64, 128, 0.1, i) for i in range(3)}
    result = autotune.warmup(model, [784], budget=SMALL, store=store, device=GPU, jobs=4)
    assert [bool(t.leader) for t in result.tuned] == [False, True, True]
    assert result.compiled > 0 and result.compiled_nnz > 0 and result.compile_s > 0
    again = autotune.warmup(model, [784], budget=SMALL, store=store, device=GPU, jobs=4)
    assert again.measured == 0 and again.seconds < 20


def test_kernels_travel_and_nothing_is_compiled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way in fresh processes: tune, export, import elsewhere, call."""
    import os
    import subprocess
    import sys

    common = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    make = "from tests.support import weight\nW = weight('random', 64, 128, 0.1).to('cuda:0')\n"
    archive = tmp_path / "a.zip"

    def python(code: str, where: str) -> str:
        env = common | {
            "SPARSE_TRITON_CACHE_DIR": str(tmp_path / where / "store"),
            "TRITON_CACHE_DIR": str(tmp_path / where / "triton"),
        }
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tune = "import autotune\nautotune.tune(W, 784, autotune.Budget('s', 10, 60.0, 'tpe'), jobs=4)\n"
    cli = "import sys\nfrom autotune.cli import main\nsys.exit(main([{}]))\n"
    python(make + tune, "here")
    out = python(cli.format(f"'export', '{archive}', '--with-kernels', '--json'"), "here")
    assert json.loads(out)["kernels missing"] == 0
    python(cli.format(f"'import', '{archive}', '--with-kernels'"), "there")
    call = (
        "import subprocess, torch, sparse_triton as st\n"
        "from triton import knobs\n"
        "import triton.runtime.build as b\n"
        "hits = []\n"
        "knobs.compilation.listener = lambda **e: hits.append(e['cache_hit'])\n"
        "def refuse(*a, **k): raise AssertionError('a launch stub was compiled')\n"
        "b._build = refuse\n"
        "st.spmm(W, torch.randn(128, 784, device='cuda:0')); torch.cuda.synchronize()\n"
        "assert all(hits), hits\nprint(hits)\n"
    )
    print(python(make + call, "there"))


def test_a_killed_compiler_costs_one_candidate(store: Store) -> None:
    import os
    import signal

    W = weight("random", 64, 128, 0.1).to(GPU)
    problem = problem_for(W, 784)
    device = torch.device(GPU)
    with CompilePool(1, timeout_s=120) as pool:
        bench = LiveBench(W, problem, device, pool)
        config = default_config(problem, Device.of(device))
        bench.submit(config, "test")
        while not pool.workers[0].ready:
            pool.take(set(), 0.1)
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)
        trial = None
        while trial is None:
            trial = bench.collect(float("inf"), 1.0)
        bench.submit(config, "test")
        again = None
        while again is None:
            again = bench.collect(float("inf"), 1.0)
        assert again.outcome == "ok"
        bench.close()
