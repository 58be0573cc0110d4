"""``explain``: one family is chosen, every other one has a reason, times come from the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sparse_triton as st
from sparse_triton.config import KernelConfig
from sparse_triton.errors import DtypeError, InputError, ShapeError
from sparse_triton.kernels import CONV_FAMILIES, FAMILIES
from sparse_triton.problem import ConvProblem, SpmmProblem
from sparse_triton.records import Best, Entry, Key, Timing, Trial
from sparse_triton.roofline import Peak, at_best_us
from sparse_triton.store import default_store
from tests.support import weight


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))


def test_one_is_chosen_and_the_others_have_reasons() -> None:
    W = weight("random", 64, 96, 0.1)
    found = st.explain(W, 40)
    assert [c.family for c in found.candidates] == list(FAMILIES)
    chosen = [c for c in found.candidates if c.why_not is None]
    assert [c.config for c in chosen] == [found.choice.config]
    assert all(c.usable == (c.config is not None) for c in found.candidates)
    assert found.choice.source == "heuristic"
    json.dumps(found.to_dict())
    text = str(found)
    assert all(name in text for name in FAMILIES) and "estimate" in text


def test_families_of_another_device_say_so() -> None:
    found = {c.family: c for c in st.explain(weight("random", 64, 64), 32).candidates}
    assert "runs on cuda, the device is cpu" in str(found["gather"].why_not)
    assert found["gather"].at_best_us is None


def test_an_n_stands_for_an_x_of_the_weights_dtype() -> None:
    W = weight("random", 32, 48, 0.2)
    assert st.explain(W, 7).problem == st.explain(W, torch.randn(48, 7)).problem
    tokens = st.explain(W, torch.randn(2, 5, 48), token_major=True)
    assert tokens.problem == st.explain(W, 10, token_major=True).problem
    assert tokens.problem.x_layout == "column"


def test_measured_times_come_from_the_store() -> None:
    W = weight("random", 64, 64, 0.1)
    untuned = st.explain(W, 48)
    best, worse = KernelConfig("cpu", M_blocks=2), KernelConfig("cpu", M_blocks=4)
    dense = KernelConfig("dense")
    trials = [(best, 5.0), (worse, 6.0), (dense, 10.0)]
    entry = Entry(
        Key(untuned.problem, W.pattern_hash),
        untuned.device,
        Best(best, Timing(5.0, 4.0, 6.0), Timing(10.0, 9.0, 11.0)),
        tuple(Trial(c, "ok", Timing(us, us, us)) for c, us in trials),
    )
    default_store().put(entry)
    tuned = st.explain(W, 48)
    found = {c.family: c for c in tuned.candidates}
    assert tuned.choice.source == "stored"
    assert found["cpu"].config == best and found["cpu"].measured_us == 5.0
    assert found["dense"].measured_us == 10.0
    assert found["dense"].why_not == "takes 2.00 x the chosen one's time"


@pytest.mark.parametrize("N", [-1, 2.5, True, None])
def test_n_must_be_a_count(N: object) -> None:
    with pytest.raises(ShapeError, match="whole number of columns"):
        st.explain(torch.eye(4), N)  # type: ignore[arg-type]


def test_arguments_are_held_to_the_laws_of_spmm() -> None:
    with pytest.raises(ShapeError, match="W has K = 4 columns"):
        st.explain(torch.eye(4), torch.ones(5, 2))
    with pytest.raises(DtypeError, match="X must be float32"):
        st.explain(torch.eye(4), torch.ones(4, 2, dtype=torch.int32))
    with pytest.raises(InputError, match="W must be a SparseMatrix"):
        st.explain("weight.npz", 4)  # type: ignore[arg-type]


def test_the_estimate_is_the_larger_of_flop_and_bytes() -> None:
    problem = SpmmProblem(M=100, K=200, N=50, nnz=1000)
    compute_bound = Peak(1.0, 1e12, 2.0, assumed=True)
    assert at_best_us(problem, "gather", compute_bound) == 2 + 2 * 1000 * 50
    assert at_best_us(problem, "dense", compute_bound) == 2 + 2 * 100 * 200 * 50
    memory_bound = Peak(1e12, 1.0, 0.0, assumed=True)
    activations = 4 * (200 * 50 + 100 * 50)
    assert at_best_us(problem, "gather", memory_bound) == activations + 6 * 1000
    assert at_best_us(problem, "unrolled", memory_bound) == activations + 16 * 1000
    assert at_best_us(problem, "dense", memory_bound) == activations + 4 * 100 * 200


def test_a_convolution_is_explained_as_it_is_called() -> None:
    w = torch.randn(6, 4, 3, 3) * (torch.rand(6, 4, 3, 3) < 0.1)
    X, bias = torch.randn(2, 4, 9, 9), torch.randn(6)
    found = st.explain(w, X, bias=bias, activation="relu", padding=1, pool="max")
    problem = found.problem
    assert isinstance(problem, ConvProblem) and problem.pool is not None and problem.epilogue.bias
    assert [c.family for c in found.candidates] == list(CONV_FAMILIES)
    assert [c.family for c in found.candidates if c.why_not is None] == ["cpu"]
    assert "conv 3x3 4->6 on 9x9 + max pool 2x2" in str(found)
    json.dumps(found.to_dict())
    prepared = st.SparseFilter.from_dense(w)
    assert st.explain(prepared, X[0], stride=2).problem.batch == 1
    assert isinstance(st.explain(w[:, :, :1, :1], X).problem, SpmmProblem)
    with pytest.raises(ShapeError, match=r"a convolution needs X \[B, C, H, W\], got 7"):
        st.explain(prepared, 7)
