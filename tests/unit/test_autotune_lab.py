"""Verification bites: what a wrong kernel can do, and that the right ones pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from autotune import lab as lab_module
from autotune.bench import LiveBench
from autotune.lab import GUARD, Lab, quiet
from autotune.space import DENSE
from autotune.timing import STOP_AT, estimate, faster, two_stages
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import BuildError
from sparse_triton.heuristics import default_config
from sparse_triton.kernel import Run
from sparse_triton.kernels import FAMILIES
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import Epilogue, SpmmProblem
from sparse_triton.records import Timing
from tests.support import problem_for, weight

CPU = torch.device("cpu")
FACTS = Device.of(CPU)
Tensor = torch.Tensor
W = weight("random", 24, 40, 0.2)
EPILOGUES = [
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(bias=True, residual=True, activation="relu"),
    Epilogue(activation="gelu"),
]


def run_of(lab: Lab, config: KernelConfig) -> Run:
    plan = plan_spmm(lab.problem, config, lab.W.csr, FACTS)
    return plan.family.build(plan).bind(CPU)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("x_layout,y_layout", [("row", "row"), ("column", "column")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_right_kernels_pass(
    epilogue: Epilogue, x_layout: Any, y_layout: Any, dtype: str, batch: int
) -> None:
    problem = problem_for(
        W, 17, batch=batch, x_dtype=dtype, x_layout=x_layout, y_layout=y_layout, epilogue=epilogue
    )
    with quiet(CPU):
        lab = Lab(W, problem, CPU)
        for config in (DENSE, default_config(problem, FACTS)):
            assert lab.check(run_of(lab, config), config) == ""


def spoiled(kind: str, right: Run, lab: Lab) -> Run:
    def run(X: Tensor, Y: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
        before = Y.clone()
        right(X, Y, bias, residual)
        match kind:
            case "missing":
                Y[0, -1, -1] = before[0, -1, -1]
            case "off":
                Y[0, 3, 5] *= 1.001
            case "infinite":
                Y[0, 0, 0] = float("inf")
            case "second input only":
                if X is lab.cases[1].X:
                    Y[0, 3, 5] += 0.01
            case "before":
                lab.buffer[GUARD - 1] = 0.0
            case "after":
                lab.buffer[-1] = 0.0

    return run


@pytest.mark.parametrize(
    "kind,words",
    [
        ("missing", "not written"),
        ("off", "times the error bound"),
        ("infinite", "not finite"),
        ("second input only", "times the error bound"),
        ("before", "outside of Y"),
        ("after", "outside of Y"),
    ],
)
def test_wrong_kernels_do_not(kind: str, words: str) -> None:
    lab = Lab(W, problem_for(W, 17), CPU)
    config = default_config(lab.problem, FACTS)
    assert words in lab.check(spoiled(kind, run_of(lab, config), lab), config)


@pytest.mark.parametrize("at", [0, 150, -1])
def test_of_a_big_y_columns_are_sampled_but_every_element_must_be_written(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(lab_module, "BIG", 24 * 140)
    lab = Lab(W, problem_for(W, 300), CPU)
    assert lab.columns is not None and len(lab.columns) == 140 and len(lab.cases) == 1
    right = run_of(lab, DENSE)
    assert lab.check(right, DENSE) == ""

    def run(X: Tensor, Y: Tensor, *rest: Any) -> None:
        right(X, Y, *rest)
        Y[0, 2, at] = float("nan")

    assert "not written" in lab.check(run, DENSE)


def test_a_weight_with_infinities_is_judged_by_what_the_truth_is() -> None:
    dense = W.to_dense()
    dense[1, int(dense[1].nonzero()[0])] = float("inf")
    infinite = type(W).from_dense(dense)
    lab = Lab(infinite, problem_for(infinite, 5), CPU)
    config = default_config(lab.problem, FACTS)
    assert lab.check(run_of(lab, config), config) == ""


# -- outcomes --------------------------------------------------------------------------------------


def bench(N: int = 17, **options: Any) -> LiveBench:
    return LiveBench(W, problem_for(W, N, **options), CPU)


def one(b: LiveBench, config: KernelConfig, best_us: float = float("inf")) -> Any:
    b.submit(config, "test")
    trial = b.collect(best_us, 1.0)
    assert trial is not None and b.collect(best_us, 0.0) is None
    return trial


def test_ok_and_slow() -> None:
    b = bench()
    ok = one(b, DENSE)
    assert ok.outcome == "ok" and ok.timing.us > 0 and ok.origin == "test" and ok.compile_s >= 0
    slow = one(b, DENSE, best_us=ok.timing.us / 100)
    assert slow.outcome == "slow" and slow.timing is not None


def test_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = FAMILIES["cpu"]
    right = cpu.build

    class Wrong:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def bind(self, device: torch.device) -> Run:
            run = self.kernel.bind(device)

            def wrong(X: Tensor, Y: Tensor, *rest: Any) -> None:
                run(X, Y, *rest)
                Y += 1e-3

            return wrong

    monkeypatch.setattr(type(cpu), "build", lambda self, plan: Wrong(right(plan)))
    b = bench()
    trial = one(b, default_config(b.problem, FACTS))
    assert trial.outcome == "wrong" and trial.timing is None and "error bound" in trial.why


@pytest.mark.parametrize("error", [BuildError, RuntimeError, MemoryError, ValueError])
def test_failed(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def build(self: Any, plan: Any) -> Any:
        raise error("no such luck")

    monkeypatch.setattr(type(FAMILIES["cpu"]), "build", build)
    b = bench()
    trial = one(b, default_config(b.problem, FACTS))
    assert (trial.outcome, trial.why) == ("failed", f"{error.__name__}: no such luck")


def test_only_the_leaders_and_dense_are_kept() -> None:
    b = bench()
    one(b, DENSE)
    for m in range(1, 12):
        one(b, KernelConfig("cpu", M_blocks=m))
    assert DENSE in b.runs and len(b.runs) <= 6
    assert len(b.compare([DENSE, KernelConfig("cpu", M_blocks=11)])) == 2


# -- timing ----------------------------------------------------------------------------------------


class FakeTimer:
    def __init__(self, us: float) -> None:
        self.us, self.taken = us, 0

    def samples(self, repeats: int) -> list[float]:
        self.taken += repeats
        return [self.us] * repeats


def test_three_repeats_then_the_rest_only_if_it_may_win() -> None:
    for us, stops in ((STOP_AT * 10.0 - 0.1, False), (STOP_AT * 10.0 + 0.1, True)):
        timer = FakeTimer(us)
        timing, stopped = two_stages(timer, 10.0, "cuda")
        assert stopped is stops and timing.us == us
        assert timer.taken == (3 if stops else 23)


def test_estimates_are_medians_on_a_gpu_and_minima_on_a_cpu() -> None:
    samples = [5.0, 1.0, 2.0, 3.0, 4.0]
    assert estimate(samples, "cuda") == Timing(3.0, 2.0, 4.0)
    assert estimate(samples, "cpu") == Timing(1.0, 2.0, 4.0)


def test_faster_means_beyond_noise() -> None:
    a = Timing(10.0, 9.5, 10.5)
    assert faster(Timing(9.0, 8.9, 9.1), a) and not faster(a, Timing(9.0, 8.9, 9.1))
    assert not faster(Timing(9.9, 9.0, 10.6), a) and not faster(a, a)
    assert faster(Timing(9.7, 9.6, 9.8), a)


TF32_SETTINGS = [
    ("", "none", "none"),
    ("matmul.allow_tf32 = True", "ieee", "tf32"),
    ("torch.set_float32_matmul_precision('medium')", "ieee", "tf32"),
    ("matmul.fp32_precision = 'tf32'", "ieee", "tf32"),
    ("matmul.fp32_precision = 'ieee'", "ieee", "ieee"),
]
TF32_CHECK = """
import os, sys, torch
from autotune.timing import full_precision
matmul = torch.backends.cuda.matmul
def older():
    try:
        return matmul.allow_tf32
    except RuntimeError:
        return "they disagree"
def check(setting, during, after):
    exec(setting)
    before = older()
    try:
        with full_precision():
            assert matmul.fp32_precision == during and older() is False, (setting, older())
            assert not matmul.allow_bf16_reduced_precision_reduction
            raise KeyError
    except KeyError:
        pass
    assert matmul.fp32_precision == after and older() == before, setting
    assert matmul.allow_bf16_reduced_precision_reduction
for case in eval(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        check(*case)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_dense_is_held_to_full_precision_and_settings_come_back() -> None:
    """In a process for each: PyTorch has two switches for TF32, which must not disagree."""
    command = [sys.executable, "-c", TF32_CHECK, repr(TF32_SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_roundings_follow_the_dense_family() -> None:
    plain = SpmmProblem(8, 8, 8, 4, x_dtype="float16", w_dtype="float16")
    with_bias = replace(plain, epilogue=Epilogue(bias=True))
    assert lab_module.roundings(plain, DENSE) == 1
    assert lab_module.roundings(with_bias, DENSE) == 2
    assert lab_module.roundings(with_bias, KernelConfig("gather")) == 1
    assert lab_module.roundings(replace(with_bias, w_dtype="float32"), DENSE) == 1
