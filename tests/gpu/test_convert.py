"""Converted models on a GPU: CUDA graphs, streams, threads, autocast, compilation, moves."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_triton as st
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared

pytestmark = pytest.mark.gpu
FORMATS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.fixture(autouse=True)
def full_precision() -> None:
    """The dense family may be chosen: it has to compute in float32 too."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def converted(dense: nn.Module) -> nn.Module:
    model, report = st.sparsify(dense)
    assert report.converted
    return model.cuda().requires_grad_(False)


def images(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_forward(memory_format: str) -> None:
    dense = prepared(ResNet())
    model, X = converted(dense), images()
    Y = model(X.cuda().contiguous(memory_format=FORMATS[memory_format]))
    assert worst(Y, bounded(dense, X)) <= 1.0


def test_graph() -> None:
    dense = prepared(ResNet())
    model, X = converted(dense), images().cuda()
    twin = copy.deepcopy(model)  # analysed as it is copied: nothing is left for the capture
    model(X)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        Y = twin(X)
    for seed in range(3):
        x = images(seed)
        X.copy_(x)
        Y.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert worst(Y, bounded(dense, x)) <= 1.0


def test_first_call_inside_a_capture() -> None:
    model, X = converted(prepared(Perceptron(), seed=5)), torch.randn(3, 16, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one = torch.zeros(1, device="cuda")
        with pytest.raises(st.errors.CaptureError, match="run the same call once before"):
            model(X)
        one += 1
    assert model(X).isfinite().all()


def test_warmup_then_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path))
    dense = prepared(Perceptron(), seed=6)
    model, x = converted(dense), torch.randn(64, 16)
    X = x.cuda()
    result = st.warmup(model, X, seconds=2, jobs=8)
    assert len(result.tuned) == 3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        Y = model(X)
    graph.replay()
    torch.cuda.synchronize()
    assert worst(Y, bounded(dense, x)) <= 1.0


def test_streams_and_threads() -> None:
    dense = prepared(ResNet())
    model, inputs = converted(dense), [images(i, batch=1 + i % 3).cuda() for i in range(12)]
    want = [model(X) for X in inputs]
    torch.cuda.synchronize()

    def work(i: int) -> torch.Tensor:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            Y = model(inputs[i % 12])
            torch.cuda.current_stream().synchronize()
        return Y

    with ThreadPoolExecutor(6) as pool:
        for i, Y in enumerate(pool.map(work, range(48))):
            assert torch.equal(Y, want[i % 12])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_data_parallel() -> None:
    dense = prepared(ResNet())
    model, X = converted(dense), images(batch=4)
    parallel = nn.DataParallel(model, [0, 1])
    for _ in range(2):
        assert worst(parallel(X.cuda()), bounded(dense, X)) <= 1.0
    assert torch.device("cuda", 1) in model.fc._replicas, "the weight stays on the other GPU"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_low_precision(dtype: str, how: str) -> None:
    dense = prepared(ResNet())
    model, X, low = converted(dense), images().cuda(), getattr(torch, dtype)
    if how == "cast":
        Y = model.to(low)(X.to(low))
    else:
        with torch.autocast("cuda", low):
            Y = model(X)
    assert Y.dtype == low
    assert worst(Y, bounded(dense, images(), dtype=dtype)) <= 1.0


def test_compile() -> None:
    torch._dynamo.reset()
    dense = prepared(ResNet())
    model, X = converted(dense), images()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert worst(compiled(X.cuda()), bounded(dense, X)) <= 1.0


def test_there_and_back() -> None:
    dense = prepared(ResNet())
    model, X = converted(dense), images()
    on_gpu = model(X.cuda())
    assert worst(model.cpu()(X), bounded(dense, X)) <= 1.0
    assert torch.equal(model.cuda()(X.cuda()), on_gpu)
    st.densify_(model)
    state = dense.state_dict()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(t.cpu(), state[name]) for name, t in model.state_dict().items())


def test_gain_is_expected_on_the_gpu() -> None:
    model = prepared(nn.Sequential(nn.Linear(2048, 2048)), 0.9).cuda()
    row = st.advise(model, example_inputs=torch.randn(256, 2048, device="cuda"))["0"]
    assert row.decision == "sparse" and row.gain is not None and row.gain > 1.0


def test_after_a_warmup_without_budget_no_call_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = prepared(ResNet())
    model, X = converted(dense), images(batch=3)
    assert st.warmup(model, X.cuda(), budget="off").prepared > 0

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a call compiles")

    monkeypatch.setattr("triton.compile", refused)
    assert worst(model(X.cuda()), bounded(dense, X)) <= 1.0
