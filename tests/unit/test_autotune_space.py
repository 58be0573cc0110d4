"""The search space: what is in it, and its two languages."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autotune.space import KNOBS, SearchSpace
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.problem import SpmmProblem

GPU = Device.virtual_cuda(90)
CPU = Device("cpu", "Some CPU", 0, cores=2)
PROBLEM = SpmmProblem(64, 256, 784, 1638)


@pytest.mark.parametrize("device", [GPU, CPU])
def test_families_of_the_device_but_never_dense(device: Device) -> None:
    space = SearchSpace.of(PROBLEM, device)
    assert "dense" not in space.families and space.families
    assert all(FAMILIES[k].device_kind in (device.kind, "any") for k in space.families)


@pytest.mark.parametrize("device", [GPU, CPU])
def test_knobs_are_log2_integers_and_extras_are_choices(device: Device) -> None:
    space = SearchSpace.of(PROBLEM, device)
    for kernel in space.families:
        for name, d in space.distributions(kernel).items():
            if name == "kernel":
                assert isinstance(d, CategoricalDistribution)
            elif name.startswith("log2_"):
                assert name.removeprefix("log2_") in KNOBS and isinstance(d, IntDistribution)
            else:
                assert name.startswith(f"{kernel}.") and isinstance(d, CategoricalDistribution)


@pytest.mark.parametrize("device", [GPU, CPU])
def test_parameters_and_configurations_translate(device: Device) -> None:
    space = SearchSpace.of(PROBLEM, device)
    for i, config in enumerate(space):
        if i % 97 == 0:
            params = space.params(config)
            assert params is not None and space.config(params) == config


def test_the_count_is_that_of_the_enumeration() -> None:
    space = SearchSpace.of(SpmmProblem(8, 16, 8, 20), CPU)
    every = list(space)
    assert len(space) == len(every) == len(set(every))


def test_odd_configurations_get_the_nearest_parameters() -> None:
    space = SearchSpace.of(PROBLEM, CPU)
    params = space.params(KernelConfig("cpu", M_blocks=13, N_blocks=1000, Gy=1))
    assert params is not None
    assert params["log2_M_blocks"] == 4 and params["log2_N_blocks"] >= 4
    assert space.params(KernelConfig("dense")) is None
    assert space.params(KernelConfig("cpu", row_blocks="nonsense")) is None  # type: ignore[arg-type]


def test_families_can_be_left_out() -> None:
    space = SearchSpace.of(PROBLEM, GPU, ["unrolled"])
    assert "unrolled" not in space.families


def test_nothing_to_multiply_means_nothing_to_search() -> None:
    assert not SearchSpace.of(SpmmProblem(8, 8, 8, 0), GPU).families
