"""CUDA graphs, streams and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import sparse_triton as st
from sparse_triton import verify
from tests.support import dense_weight, weight

pytestmark = pytest.mark.gpu
# columns and densities at which the heuristic takes each of the families
CALLS = {"unrolled": (0.1, 2304), "gather": (0.1, 49), "dense": (0.8, 49)}


@pytest.mark.parametrize("family", CALLS)
def test_capture_after_a_first_call(family: str) -> None:
    density, N = CALLS[family]
    W = weight("random", 48, 64, density).to("cuda")
    X, bias = torch.randn(2, 64, N, device="cuda"), torch.randn(48, device="cuda")
    st.spmm(W, X, bias=bias, activation="relu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        Y = st.spmm(W, X, bias=bias, activation="relu")
    for seed in range(3):
        X.copy_(torch.randn(X.shape, generator=torch.Generator().manual_seed(seed)))
        Y.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert verify.worst_ratio(Y, W, X, bias, None, "relu", Gy=16) <= 1.0


def refused(call: object) -> None:
    """The call raises CaptureError inside a capture, and the capture can still be ended."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one = torch.zeros(1, device="cuda")
        with pytest.raises(st.errors.CaptureError, match="run the same call once before"):
            call()  # type: ignore[operator]
        one += 1
    graph.replay()
    torch.cuda.synchronize()
    assert one.item() == 1


def test_first_call_inside_a_capture() -> None:
    W = weight("random", 48, 64).to("cuda")
    X = torch.randn(64, 2305, device="cuda")
    refused(lambda: st.spmm(W, X))
    assert st.spmm(W, X).isfinite().all()


def test_first_sight_of_a_dense_weight_inside_a_capture() -> None:
    w, X = dense_weight("random", 48, 64, seed=8).cuda(), torch.randn(64, 64, device="cuda")
    refused(lambda: st.spmm(w, X))


def test_first_gradient_inside_a_capture() -> None:
    W = weight("random", 48, 64, seed=9).to("cuda")
    X = torch.randn(64, 64, device="cuda", requires_grad=True)
    Y = st.spmm(W, X)
    op = torch.ops.sparse_triton.spmm.default
    parts = (W.row_offsets, W.column_indices, W.values)
    grad = torch.ones_like(Y)
    refused(lambda: op(*parts, grad, None, None, None, False, True, 48, 64, W.weight_id))


def test_streams_overlap_without_mixing() -> None:
    W = weight("random", 48, 64).to("cuda")
    xs = [torch.randn(64, 2304, device="cuda") for _ in range(8)]
    want = [st.spmm(W, x) for x in xs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in xs]
    for _ in range(20):
        got = []
        for x, stream in zip(xs, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(st.spmm(W, x))
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_waits_for_the_current_stream() -> None:
    """The launch is ordered after work queued before it on the same stream."""
    W = weight("random", 48, 64).to("cuda")
    X = torch.zeros(64, 2304, device="cuda")
    st.spmm(W, X)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        X.fill_(1.0)
        Y = st.spmm(W, X)
    stream.synchronize()
    assert verify.worst_ratio(Y, W, X, Gy=16) <= 1.0


def test_threads() -> None:
    """First calls of many shapes, dense and sparse weights, at once."""
    ws = [dense_weight("random", 32, 48, seed=s).cuda() for s in range(4)]
    W = weight("random", 32, 48, seed=9).to("cuda")

    def work(i: int) -> float:
        x = torch.randn(48, 16 + i % 5, device="cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            own, shared = st.spmm(ws[i % 4], x), st.spmm(W, x)
            torch.cuda.current_stream().synchronize()
        dense = st.SparseMatrix.from_dense(ws[i % 4])
        return max(
            verify.worst_ratio(own, dense, x, Gy=16), verify.worst_ratio(shared, W, x, Gy=16)
        )

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(40))) <= 1.0
