"""Sparse layers as modules: state, copies, moves, replicas, tracing, threads."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sparse_triton import SparseMatrix, errors, verify
from sparse_triton.nn import MODULES, SparseLinear
from tests.support import dense_weight

M, K = 24, 32


def layer(seed: int = 0, density: float = 0.1, activation: str | None = "relu") -> SparseLinear:
    bias = torch.randn(M, generator=torch.Generator().manual_seed(seed))
    w = dense_weight("random", M, K, density, seed)
    return SparseLinear(w, torch.nn.Parameter(bias), activation=activation)


def right(Y: torch.Tensor, m: SparseLinear, X: torch.Tensor, R: torch.Tensor | None = None) -> bool:
    """Against float64 and the weight that the state dict holds."""
    s = m.state_dict()
    W = SparseMatrix.from_csr(s["row_offsets"], s["column_indices"], s["values"], (M, K))
    bias = None if m.bias is None else m.bias.detach()
    ratio = verify.worst_ratio(Y.detach(), W, X, bias, R, m.activation, True, Gy=16, roundings=2)
    return ratio <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_forward(dtype: torch.dtype, activation: str | None) -> None:
    m = layer(activation=activation).to(dtype)
    assert m.values.dtype == m.bias.dtype == m.matrix.dtype == dtype
    X, R = torch.randn(2, 5, K, dtype=dtype), torch.randn(2, 5, M, dtype=dtype)
    assert right(m(X), m, X)
    assert right(m(X, R), m, X, R)
    with torch.no_grad():
        assert right(m(X, R), m, X, R)
    assert torch.equal(m.weight, m.matrix.to_dense())


def by_torch_save(m: SparseLinear) -> SparseLinear:
    file = io.BytesIO()
    torch.save(m, file)
    file.seek(0)
    loaded: SparseLinear = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[SparseLinear], SparseLinear]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": by_torch_save,
    "spec": lambda m: MODULES[type(m).__name__].from_spec(
        m.spec(), m.matrix, m.bias.detach().clone()
    ),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies(how: str) -> None:
    m, X = layer(), torch.randn(3, K)
    want = m(X)
    other = COPIES[how](m)
    assert torch.equal(other(X), want)
    assert list(other.state_dict()) == ["bias", "row_offsets", "column_indices", "values"]
    other.load_state_dict(layer(1).state_dict())
    assert torch.equal(other(X), layer(1)(X))
    assert torch.equal(m(X), want), "a copy shares nothing that is written to"


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict(assign: bool) -> None:
    a, b, X = layer(0), layer(1, density=0.3), torch.randn(3, K)
    shared = a.matrix
    before = shared.to_dense()
    a.load_state_dict(b.state_dict(), assign=assign)
    assert torch.equal(a(X), b(X))
    assert torch.equal(shared.to_dense(), before), "a SparseMatrix never changes"
    if not assign:  # else the bias is one by request
        b.load_state_dict(layer(2).state_dict())
        assert torch.equal(a(X), layer(1, density=0.3)(X))
    assert a.half().load_state_dict(layer(2).state_dict(), assign=False).missing_keys == []


def test_load_state_dict_refuses() -> None:
    m, state = layer(), layer(1).state_dict()
    want = m.matrix.to_dense()
    with pytest.raises(RuntimeError, match=r"row_offsets needs M \+ 1 = 25 entries"):
        m.load_state_dict({**state, "row_offsets": state["row_offsets"][:-1]})
    with pytest.raises(RuntimeError, match=r'Missing key.*"values"'):
        m.load_state_dict({k: v for k, v in state.items() if k != "values"})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight"'):
        m.load_state_dict({**state, "weight": torch.zeros(M, K)})
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        m.load_state_dict({**state, "bias": torch.zeros(M + 1)})
    m.load_state_dict(layer().state_dict())
    assert torch.equal(m.matrix.to_dense(), want)
    nested = torch.nn.Sequential(layer())
    with pytest.raises(RuntimeError, match=r'Missing key.*"0.row_offsets"'):
        nested.load_state_dict({})


def test_values_written_in_place_are_seen() -> None:
    m, X = layer(activation=None), torch.randn(3, K)
    m.bias = None
    twice = 2 * m(X)
    with torch.no_grad():
        m.values.mul_(2)
        assert torch.equal(m(X), twice)
    fresh = layer(activation=None)
    assert right(fresh(X), fresh, X), "an equal weight of before is not mixed up with it"


def test_moves() -> None:
    m, X = layer(), torch.randn(3, K)
    assert m.to("cpu").matrix is m.matrix
    meta = copy.deepcopy(m).to("meta")
    assert meta(X.to("meta")).shape == (3, M)
    meta.to_empty(device="cpu").load_state_dict(m.state_dict())
    assert torch.equal(meta(X), m(X))
    low = copy.deepcopy(m)
    with torch.inference_mode():
        low.bfloat16()
        assert right(low(X.bfloat16()), low, X.bfloat16())
    assert right(low(X.bfloat16()), low, X.bfloat16())
    with pytest.raises(errors.DtypeError, match=r"got torch\.float64"):
        m.double()(X)


def test_autocast_and_gradient() -> None:
    m, X = layer(), torch.randn(3, K, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert m(X).dtype == torch.bfloat16
    m(X).sum().backward()
    assert X.grad is not None and m.bias.grad is not None
    assert [n for n, _ in m.named_parameters()] == ["bias"]


def test_compile_sees_a_changed_weight() -> None:
    torch._dynamo.reset()
    m, X = layer(), torch.randn(3, K)
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), m(X))
    m.load_state_dict(layer(1).state_dict())
    torch.testing.assert_close(compiled(X), layer(1)(X))


def test_export() -> None:
    m, X = layer(), torch.randn(3, K)
    program = torch.export.export(m, (X,), dynamic_shapes={"X": {0: torch.export.Dim("N")}})
    assert set(program.state_dict) == set(m.state_dict()), "the weight is not a baked constant"
    X = torch.randn(7, K)
    torch.testing.assert_close(program.module()(X), m(X))


def test_replicas_and_threads() -> None:
    m, X = layer(), torch.randn(3, K)
    want = m(X)

    def work(i: int) -> torch.Tensor:
        replica = m._replicate_for_data_parallel()
        for name, buffer in m._buffers.items():
            setattr(replica, name, buffer.clone())
        replica.bias = m.bias.clone()
        result: torch.Tensor = (replica if i % 2 else m)(X)
        return result

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(Y, want) for Y in pool.map(work, range(40)))
    replica = m._replicate_for_data_parallel()
    replica.values = m.values.clone()
    assert replica.matrix is m._replicate_for_data_parallel()._replicas[m.values.device]
    m.load_state_dict(layer(1).state_dict())
    assert not m._replicas, "replicas of the old weight are forgotten with it"


def test_arguments() -> None:
    w = dense_weight("random", M, K)
    with pytest.raises(errors.ShapeError, match=r"bias must have shape \(24,\), got \(3,\)"):
        SparseLinear(w, torch.zeros(3))
    with pytest.raises(errors.ActivationError, match="got 'tanh'"):
        SparseLinear(w, activation="tanh")
    m = SparseLinear(w)
    assert (m.in_features, m.out_features, m.bias) == (K, M, None)
    assert "32 -> 24" in repr(m)
