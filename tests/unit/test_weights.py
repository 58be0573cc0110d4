"""Plain tensors as weights: analysed once, remembered while they live unchanged."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import sparse_triton as st
from sparse_triton import weights
from sparse_triton.matrix import SparseMatrix
from tests.support import dense_weight


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """The shape of every tensor that is analysed, in order."""
    weights.forget()
    seen: list[torch.Size] = []
    real = SparseMatrix.from_torch

    def count(t: torch.Tensor) -> SparseMatrix:
        seen.append(t.shape)
        return real(t)

    monkeypatch.setattr(SparseMatrix, "from_torch", staticmethod(count))
    yield seen
    weights.forget()


def test_once_through_spmm_and_linear(analysed: list[torch.Size]) -> None:
    w, X = dense_weight("random", 8, 6), torch.randn(6, 5)
    for _ in range(3):
        st.spmm(w, X)
        st.linear(X.T, w)
    assert len(analysed) == 1


def test_views_and_detached_copies_are_one_weight(analysed: list[torch.Size]) -> None:
    w = torch.nn.Parameter(dense_weight("random", 8, 6))
    first = weights.as_matrix(w)
    for same in (w, w.detach(), w.view(8, 6), w[:], w.requires_grad_()):
        assert weights.as_matrix(same) is first
    assert len(analysed) == 1
    for other in (w[1:], w.T, w.view(6, 8), w.detach().clone()):
        assert weights.as_matrix(other) is not first
    assert len(analysed) == 5


LAYOUTS = {
    "strided": torch.clone,
    "coo": lambda w: w.to_sparse().coalesce(),
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
}


@pytest.mark.filterwarnings("ignore:Sparse (CSC|CSR)")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place_changes_are_seen(analysed: list[torch.Size], layout: str) -> None:
    w = dense_weight("random", 8, 6)
    W = LAYOUTS[layout](w)
    assert torch.equal(weights.as_matrix(W).to_dense(), w)
    assert weights.as_matrix(W) is weights.as_matrix(W)
    assert len(analysed) == 1
    with torch.no_grad():
        W.mul_(2)
    assert torch.equal(weights.as_matrix(W).to_dense(), 2 * w)
    assert len(analysed) == 2
    assert len(weights._by_tensor) == 1, "the old version is dropped"


def test_change_through_an_optimiser(analysed: list[torch.Size]) -> None:
    w = torch.nn.Parameter(dense_weight("random", 8, 6))
    weights.as_matrix(w)
    w.grad = (w != 0).float()
    torch.optim.SGD([w], lr=0.5).step()
    assert torch.equal(weights.as_matrix(w).to_dense(), w)
    assert len(analysed) == 2


def test_freed_weights_are_forgotten(analysed: list[torch.Size]) -> None:
    for seed in range(8):
        w = dense_weight("random", 8, 6, seed=seed)  # likely at the address of the one before
        assert torch.equal(weights.as_matrix(w).to_dense(), w)
        del w
    assert len(analysed) == 8
    assert len(weights._by_tensor) == 1


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
def test_shared_values_with_another_pattern() -> None:
    """Index tensors that were freed must not be mistaken for those now at their address."""
    weights.forget()
    values = torch.ones(3)
    for i in range(30):
        columns = torch.tensor([i % 5, (i + 1) % 7, i % 3])
        W = torch.sparse_csr_tensor(torch.tensor([0, 1, 2, 3]), columns, values, (3, 7))
        assert torch.equal(weights.as_matrix(W).to_dense(), W.to_dense()), i
        del W, columns
    for storages, _ in list(weights._by_tensor.values())[:-1]:
        assert weights._gone(storages), "freed indices are noticed though the values live"


def test_no_more_than_the_limit_is_kept(
    analysed: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MAX_REMEMBERED", 3)
    kept = [dense_weight("random", 4, 4, seed=s) for s in range(5)]
    for w in kept:
        weights.as_matrix(w)
    assert len(weights._by_tensor) == 3
    weights.as_matrix(kept[-1])
    assert len(analysed) == 5
    weights.as_matrix(kept[0])
    assert len(analysed) == 6


def test_inference_tensors_warn_and_are_right(analysed: list[torch.Size]) -> None:
    with torch.inference_mode():
        w = dense_weight("random", 8, 6) * 1
        for _ in range(2):
            with pytest.warns(UserWarning, match=r"pass SparseMatrix\.from_dense\(W\) instead"):
                assert torch.equal(weights.as_matrix(w).to_dense(), w)
    assert len(analysed) == 2


def test_threads_analyse_once(analysed: list[torch.Size]) -> None:
    ws = [dense_weight("random", 32, 32, seed=s) for s in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: weights.as_matrix(ws[i % 16]), range(160)))
    assert len(analysed) == 16
    assert all(m is found[i % 16] for i, m in enumerate(found))


def test_other_things_are_refused() -> None:
    with pytest.raises(
        st.errors.InputError, match=r"W must be a SparseMatrix or a torch tensor, got"
    ):
        weights.as_matrix("W")  # type: ignore[arg-type]


def test_by_id_rebuilds_in_a_process_that_never_saw_the_weight() -> None:
    W = SparseMatrix.from_dense(dense_weight("random", 8, 6, seed=77))
    parts = [t.clone() for t in (W.row_offsets, W.column_indices, W.values)]
    weight_id, want = W.weight_id, W.to_dense()
    assert weights.by_id(weight_id, *parts, W.shape) is W
    del W
    gc.collect()
    rebuilt = weights.by_id(weight_id, *parts, (8, 6))
    assert torch.equal(rebuilt.to_dense(), want)
    assert weights.by_id(weight_id, *parts, (8, 6)) is rebuilt
