"""Hypothesis profiles, and GPU tests that skip themselves where there is no GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the GPU tests draw nothing
    pass
else:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile(
        "ci", derandomize=True, deadline=None, max_examples=40, suppress_health_check=quiet
    )
    settings.register_profile(
        "search", deadline=None, max_examples=1000, suppress_health_check=quiet
    )
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's tuned configurations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws from torch does not depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that share busy cores wait for each other; and their number is part of a CPU's name,
    so a test and the processes it starts must agree on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
