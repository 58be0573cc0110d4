"""``sparsify_``, ``densify_``, ``advise``: decisions, the report, the exact way back."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

import sparse_triton
from sparse_triton import SparsifyConfig, advise, densify_, errors, prune_, sparsify, sparsify_
from sparse_triton.convert import install_
from sparse_triton.nn import SparseConv2d, SparseConvPool2d, SparseLinear, SparseModule
from tests.bounds import bounded, worst
from tests.models import Perceptron, ResNet, prepared

ANY = SparsifyConfig(min_sparsity=0.0)


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal state dicts: names, order, and every bit, the sign of zero included."""
    if list(a) != list(b):
        return False
    pairs = [(a[k], b[k]) for k in a]
    return all(
        x.dtype == y.dtype and x.shape == y.shape
        and (torch.equal(x, y) and torch.equal(x.signbit(), y.signbit()))
        for x, y in pairs
    )  # fmt: skip


# -- round trips -----------------------------------------------------------------------------------

conv_layers = st.builds(
    lambda c, k, d, g, bias, same: (c, k, d, g, bias, "same" if same else k // 2),
    st.sampled_from([4, 8]), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]), st.booleans(), st.booleans(),
)  # fmt: skip
afters = st.lists(
    st.sampled_from(["bn", "relu", "gelu", "silu", "max", "avg", "dropout"]), max_size=3
)


def conv_net(layers: list[tuple[Any, list[str]]], seed: int, sparsity: float) -> nn.Sequential:
    modules: list[nn.Module] = []
    channels = 4
    for (c, k, d, g, bias, padding), after in layers:
        modules.append(nn.Conv2d(channels, c, k, 1, padding, d, g, bias))
        channels = c
        made: dict[str, Callable[[], nn.Module]] = {
            "bn": lambda c=c: nn.BatchNorm2d(c), "relu": lambda: nn.ReLU(inplace=True),
            "gelu": nn.GELU, "silu": nn.SiLU, "dropout": nn.Dropout,
            "max": lambda: nn.MaxPool2d(2, 1, 1), "avg": lambda: nn.AvgPool2d(2, 1, 1),
        }  # fmt: skip
        modules += [made[name]() for name in after]
    return prepared(nn.Sequential(*modules), sparsity, seed)


@settings(max_examples=25)
@given(
    layers=st.lists(st.tuples(conv_layers, afters), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    sparsity=st.sampled_from([0.5, 0.9, 1.0]),
    last=st.booleans(),
)
def test_fuzzed_convolutions(
    layers: list[tuple[Any, list[str]]], seed: int, sparsity: float, last: bool
) -> None:
    model, X = conv_net(layers, seed, sparsity), torch.randn(2, 4, 9, 11)
    if last:
        X = X.contiguous(memory_format=torch.channels_last)
    before, want = copy.deepcopy(model.state_dict()), bounded(model, X)
    with torch.no_grad():
        dense = model(X)
        report = sparsify_(model, ANY)
        assert len(report.converted) == len(layers)
        assert worst(model(X), want) <= 1.0
        densify_(model)
        assert same_bits(before, model.state_dict())
        assert torch.equal(model(X), dense)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 24), min_size=2, max_size=5),
    bias=st.booleans(),
    activation=st.sampled_from([nn.ReLU, nn.GELU, nn.SiLU, nn.Identity]),
    seed=st.integers(0, 999),
)
def test_fuzzed_perceptrons(
    sizes: list[int], bias: bool, activation: type[nn.Module], seed: int
) -> None:
    modules: list[nn.Module] = []
    for k, m in pairwise(sizes):
        modules += [nn.Linear(k, m, bias), activation()]
    model, X = prepared(nn.Sequential(*modules), 0.8, seed), torch.randn(3, sizes[0])
    before, want = copy.deepcopy(model.state_dict()), bounded(model, X)
    with torch.no_grad():
        sparse, report = sparsify(model, ANY)
        assert len(report.converted) == len(sizes) - 1
        assert worst(sparse(X), want) <= 1.0
        assert same_bits(before, model.state_dict()), "the model itself is as before"
        densify_(sparse)
        assert same_bits(before, sparse.state_dict())


def test_the_way_back_is_exact() -> None:
    model = prepared(ResNet())
    with torch.no_grad():  # what a mask leaves behind: negative zeros
        model.fc.weight.mul_((torch.rand(model.fc.weight.shape) < 0.5).float())
        model.fc.weight[0] = -0.0
    types = {name: type(m) for name, m in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    trains = {n: p.requires_grad for n, p in model.named_parameters()}
    sparsify_(model, ANY)
    assert any(isinstance(m, SparseModule) for m in model.modules())
    names = densify_(model)
    assert set(names) == {n for n, t in types.items() if t in (nn.Conv2d, nn.Linear)}
    assert {name: type(m) for name, m in model.named_modules()} == types
    assert same_bits(before, model.state_dict())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trains
    assert densify_(model) == ()
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_casts_survive_the_way_back() -> None:
    model = prepared(ResNet(), seed=1)
    want = copy.deepcopy(model).half().state_dict()
    sparsify_(model, ANY)
    densify_(model.half())
    assert same_bits(want, model.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loads_survive_the_way_back(dtype: str) -> None:
    model, other = prepared(ResNet(), seed=1), prepared(ResNet(), seed=2)
    source, low = copy.deepcopy(other), getattr(torch, dtype)
    sparsify_(model, ANY)
    sparsify_(source, ANY)
    model.to(low).load_state_dict(source.state_dict())
    X = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        densify_(model)
        assert type(model.fc) is nn.Linear and model.fc.weight.dtype == low
        assert type(model.stem[1]) is nn.Identity, "its BatchNorm stays folded in"
        assert worst(model(X.to(low)), bounded(other, X, dtype=dtype)) <= 1.0
    own = prepared(ResNet(), seed=1)
    before = copy.deepcopy(own.state_dict())
    sparsify_(own, ANY)
    own.load_state_dict(own.state_dict())  # the same again changes nothing
    densify_(own)
    assert same_bits(before, own.state_dict())


@pytest.mark.parametrize("make", [ResNet, Perceptron])
def test_install(make: type[nn.Module]) -> None:
    """The way of a loaded file: modules by name, onto a model that was never trained."""
    model, skeleton = prepared(make(), seed=1), make()
    sparse, _ = sparsify(model, ANY)
    layers = {n: m for n, m in sparse.named_modules() if isinstance(m, SparseModule)}
    made = {}
    for name, m in layers.items():
        made[name] = type(m).from_spec(m.spec(), m.matrix, m.bias)
        made[name].fused = m.fused
    install_(skeleton, made)
    X = torch.randn(2, 3, 16, 16) if make is ResNet else torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(skeleton.eval()(X), sparse(X))
        assert skeleton.state_dict().keys() == sparse.state_dict().keys()
        densify_(skeleton)
        assert worst(skeleton(X), bounded(model, X)) <= 1.0
    assert not any(isinstance(m, SparseModule) for m in skeleton.modules())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder(activation: str) -> None:
    """Its fast path would read the weights past the sparse layers; so it is switched off."""

    def make() -> nn.TransformerEncoder:
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation=activation, batch_first=True
        )
        return nn.TransformerEncoder(layer, 2)

    model, X = prepared(make()), torch.randn(2, 5, 16)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    attributes = [dict(m.__dict__) for m in model.layers]
    with torch.no_grad():
        want = [model(X), model(X, src_key_padding_mask=padding)]
        before = copy.deepcopy(model.state_dict())
        sparse, report = sparsify(model)
        assert report.converted == tuple(
            f"layers.{i}.{name}" for i in (0, 1) for name in ("linear1", "linear2")
        )
        assert sparse.layers[0].linear1.activation == activation
        skeleton = make().eval()
        skeleton.load_state_dict({k: v for k, v in before.items()})
        made = {}
        for name, m in sparse.named_modules():
            if isinstance(m, SparseModule):
                made[name] = type(m).from_spec(m.spec(), m.matrix, m.bias)
                made[name].fused = m.fused
        install_(skeleton, made)
        for converted in (sparse, skeleton):
            got = [converted(X), converted(X, src_key_padding_mask=padding)]
            torch.testing.assert_close(got[0], want[0])
            torch.testing.assert_close(got[1][~padding], want[1][~padding])
            densify_(converted)
            assert same_bits(before, converted.state_dict())
            assert [m.activation_relu_or_gelu for m in converted.layers] == [
                a["activation_relu_or_gelu"] for a in attributes
            ]
            assert torch.equal(converted(X), want[0])


def test_install_refuses() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    sparsify_(model, ANY)
    layer = model[0]
    other = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    with pytest.raises(errors.InputError, match=r"0 was fused with relu; .* followed by gelu"):
        install_(other, {"0": layer})
    assert type(other[0]) is nn.Linear
    with pytest.raises(errors.InputError, match="does not have the sparse layers"):
        install_(other, {"first": layer})


# -- how the zeros may be given --------------------------------------------------------------------


class Half(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(w.shape[-1]) % 4 == 0, w, 0.0)


def by_prune(layer: nn.Linear) -> None:
    prune.random_unstructured(layer, "weight", 0.75)
    prune.random_unstructured(layer, "bias", 0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(2)  # layer.weight is stale until the next forward


def by_sparse_tensor(layer: nn.Linear) -> None:
    masked = layer.weight.detach() * (torch.rand(layer.weight.shape) < 0.2)
    layer.weight = nn.Parameter(masked.to_sparse_csr())


GIVEN: dict[str, tuple[Callable[[nn.Linear], Any], str]] = {
    "torch.nn.utils.prune": (by_prune, "zeros by torch.nn.utils.prune"),
    "parametrize": (
        lambda m: parametrize.register_parametrization(m, "weight", Half()),
        "zeros by parametrization Half",
    ),
    "prune_": (lambda m: prune_(nn.Sequential(m), 0.8), "zeros by parametrization Mask"),
    "sparse_csr": (by_sparse_tensor, "zeros by sparse_csr"),
}


@pytest.mark.parametrize("how", GIVEN)
def test_masks(how: str) -> None:
    model, X = nn.Sequential(nn.Linear(16, 32), nn.ReLU()).eval(), torch.randn(3, 16)
    GIVEN[how][0](model[0])
    with torch.no_grad():
        want = model(X)
        before = dict(model.state_dict())
        sparse, report = sparsify(model)
        assert report["0"].decision == "sparse" and GIVEN[how][1] in report["0"].reason
        assert 0.7 < report["0"].sparsity < 0.9
        torch.testing.assert_close(sparse(X), want)
        copied = copy.deepcopy(sparse)
        densify_(copied)
        assert list(copied.state_dict()) == list(before)
        assert type(copied[0]) is type(model[0])
        weights = (m[0].weight for m in (copied, model))
        assert len({w.layout for w in weights}) == 1
        assert torch.equal(copied(X), want)
        unpickled = pickle.loads(pickle.dumps(sparse))
        assert torch.equal(unpickled(X), sparse(X))
        densify_(unpickled)
        torch.testing.assert_close(unpickled(X), want)


def test_conv1d_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight is the transpose of a Linear's; transformers itself is not needed."""

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.randn(16, 32) * (torch.rand(16, 32) < 0.1)
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.randn(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x.view(-1, 16), self.weight).view(*x.shape[:-1], 32)

    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    model, X = nn.Sequential(Conv1D()), torch.randn(2, 3, 16)
    before, want = dict(model.state_dict()), model(X)
    assert sparsify_(model)["0"].layer == "Conv1D"
    assert isinstance(model[0], SparseLinear) and model[0].out_features == 32
    torch.testing.assert_close(model(X), want)
    densify_(model)
    assert type(model[0]) is Conv1D and same_bits(before, model.state_dict())


# -- why a layer stays dense -----------------------------------------------------------------------


class Sub(nn.Linear):
    pass


def sparse_linear(k: int = 16, m: int = 32, cls: type[nn.Linear] = nn.Linear) -> nn.Linear:
    return prepared(nn.Sequential(cls(k, m)), 0.9)[0]  # type: ignore[no-any-return]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(32, 16), sparse_linear())
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(32, 16) < 0.1)
    return model


def shared() -> nn.Module:
    layer = sparse_linear(16, 16)
    return nn.Sequential(layer, nn.ReLU(), layer)


def with_weight(w: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(w.shape[1], w.shape[0], dtype=w.dtype))
    model[0].weight = nn.Parameter(w, requires_grad=w.dtype.is_floating_point)
    return model


def reflecting() -> nn.Module:
    return prepared(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), 0.9)


def patched() -> nn.Module:
    model = nn.Sequential(sparse_linear())
    model[0].forward = lambda x: x
    return model


def attention() -> nn.Module:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    prepared(model, 0.9)
    return model


REASONS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "full": (lambda: nn.Sequential(nn.Linear(4, 4)), "0", "0.0% zeros, min_sparsity is 70.0%"),
    "tied": (tied, "1", "its weight is tied to 0.weight"),
    "shared": (shared, "0", "the module is shared: it is 2 too"),
    "subclass": (lambda: nn.Sequential(sparse_linear(cls=Sub)), "0", "Sub is a subclass"),
    "attention": (attention, "attention.out_proj", "nn.MultiheadAttention reads its weight"),
    "float64": (lambda: with_weight(torch.zeros(4, 4).double()), "0", "its weight is float64"),
    "empty": (lambda: with_weight(torch.zeros(0, 4)), "0", "its weight is empty"),
    "meta": (lambda: nn.Sequential(nn.Linear(4, 4, device="meta")), "0", "on the meta device"),
    "padding": (reflecting, "0", "padding_mode is 'reflect'"),
    "patched": (patched, "0", "its forward was replaced on the instance"),
    "root": (sparse_linear, "", "it is the model itself"),
    "no kernel": (
        lambda: nn.Sequential(nn.Conv1d(4, 4, 3).requires_grad_(False).apply(zero_)),
        "0", "there is no sparse layer for Conv1d",
    ),
}  # fmt: skip


def zero_(m: nn.Module) -> None:
    for p in m.parameters():
        p.zero_()


@pytest.mark.parametrize("why", REASONS)
def test_reasons(why: str) -> None:
    make, name, words = REASONS[why]
    model = make()
    report = sparsify_(model)
    assert report[name].decision == "dense" and words in report[name].reason
    assert report.skipped[name] == report[name].reason
    assert name not in report.converted


def test_a_dense_embedding_is_no_row() -> None:
    assert len(advise(nn.Sequential(nn.Embedding(8, 8), nn.Conv1d(4, 4, 3)))) == 0


def test_filter_and_config() -> None:
    model = prepared(Perceptron(), 0.8)
    report = advise(model, filter_fn=lambda name, layer: name != "b")
    assert report.converted == ("a", "c") and report["b"].reason == "filter_fn said no"
    assert advise(model, SparsifyConfig(min_sparsity=0.95)).converted == ()
    plain = advise(model, SparsifyConfig(fuse=False))
    assert [row.fused for row in plain] == [(), (), ()]
    for config in ({"min_sparsity": 1.5}, {"min_gain": -1.0}, {"min_gain": float("nan")}):
        with pytest.raises(errors.InputError, match=next(iter(config))):
            SparsifyConfig(**config)
    with pytest.raises(errors.InputError, match=r"model must be a .*, got dict"):
        advise({})  # type: ignore[arg-type]


def test_example_inputs_tell_the_gain() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big, self.small, self.idle = (
                sparse_linear(512, 512), sparse_linear(512, 512), sparse_linear(64, 64)
            )  # fmt: skip

        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
            return self.big(x) + self.small(y)

    model = Two().train()
    X, y = torch.randn(64, 512), torch.randn(1, 512)
    report = advise(model, example_inputs={"x": X, "y": y})
    assert model.training and model.big.training
    assert report["big"].gain is not None and report["big"].gain > 1.5
    assert report["big"].gain_source == "estimate" and "N = 64" in report["big"].reason
    assert report["idle"].gain is None and "never reach it" in report["idle"].reason
    assert "no longer trains" in report["big"].reason
    asked = SparsifyConfig(min_gain=1e6)
    dense = advise(model, asked, example_inputs={"x": X, "y": y})
    assert "min_gain is 1000000.00" in dense["big"].reason
    few = prepared(nn.Sequential(nn.Linear(64, 64)), 0.75)
    with torch.no_grad():
        few[0].weight[torch.rand(64, 64) < 0.999] = 0
    below = advise(few, example_inputs=torch.randn(64, 64))
    assert "below break-even at N = 64: dense is taken" in below["0"].reason


def test_without_a_least_gain_tuning_decides() -> None:
    few = prepared(nn.Sequential(nn.Linear(64, 64)), 0.75)
    with torch.no_grad():
        few[0].weight[torch.rand(64, 64) < 0.999] = 0
    config = SparsifyConfig(min_gain=0.0)
    assert advise(few, config, example_inputs=torch.randn(64, 64)).converted == ("0",)


def test_zeros_between_groups() -> None:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = prepared(nn.Sequential(depthwise, nn.BatchNorm2d(8), nn.ReLU()), 0.0)
    assert advise(model).converted == ()
    want, X = bounded(model, x := torch.randn(2, 8, 5, 5)), x
    before = copy.deepcopy(model.state_dict())
    report = sparsify_(model, SparsifyConfig(between_groups=True))
    assert (
        report["0"].fused == ("batch norm", "relu") and "between its groups" in report["0"].reason
    )
    assert report["0"].sparsity == 0.0
    with torch.no_grad():
        assert worst(model(X), want) <= 1.0
    densify_(model)
    assert same_bits(before, model.state_dict())


# -- the report ------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    model = prepared(ResNet(), 0.9)
    advised = advise(model, example_inputs=torch.randn(1, 3, 16, 16))
    assert not any(isinstance(m, SparseModule) for m in model.modules())
    assert advised == sparsify_(model, example_inputs=torch.randn(1, 3, 16, 16))
    data = json.loads(advised.to_json())
    assert data["bytes"] == advised.bytes < data["dense_bytes"] == advised.dense_bytes
    assert {"name", "layer", "shape", "sparsity", "decision", "reason", "gain", "bytes"} <= set(
        data["layers"][0]
    )
    text = str(advised)
    assert len(text.splitlines()) == len(advised) + 2
    assert f"{len(advised.converted)} of {len(advised)} layers sparse" in text
    advised.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_sparse_bytes_are_those_of_the_state() -> None:
    model = nn.Sequential(sparse_linear())
    row = sparsify_(model)["0"]
    state = model.state_dict()
    assert row.sparse_bytes == sum(t.nbytes for n, t in state.items() if not n.endswith("bias"))
    assert row.dense_bytes == 32 * 16 * 4


# -- what models go through ------------------------------------------------------------------------

USES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "compile": lambda m: torch.compile(m, fullgraph=True, backend="aot_eager"),
    "export": lambda m: torch.export.export(m, (torch.randn(2, 3, 16, 16),)).module(),
}


@pytest.mark.parametrize("use", USES)
def test_uses(use: str) -> None:
    torch._dynamo.reset()
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    want = bounded(model, X)
    sparsify_(model)
    with torch.no_grad():
        assert worst(USES[use](model)(X), want) <= 1.0
        assert worst(model(X), want) <= 1.0


def test_inference_mode_autocast_and_threads() -> None:
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    want, dense = bounded(model, X), copy.deepcopy(model)
    sparsify_(model)
    with torch.inference_mode():
        Y = model(X)
        assert worst(Y, want) <= 1.0
        with torch.autocast("cpu", torch.bfloat16):
            low = model(X)
        assert low.dtype == torch.bfloat16
    assert worst(low, bounded(dense, X, dtype="bfloat16")) <= 1.0
    run = torch.no_grad()(model)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(r, Y) for r in pool.map(lambda _: run(X), range(16)))


def test_state_dict_is_strict() -> None:
    a, b, X = prepared(ResNet(), seed=1), prepared(ResNet(), seed=2), torch.randn(1, 3, 16, 16)
    sparsify_(a, ANY)
    sparsify_(b, ANY)
    a.load_state_dict(b.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(a(X), b(X))
    with pytest.raises(RuntimeError, match="Missing key"):
        a.load_state_dict(prepared(ResNet()).state_dict())


def test_replicas() -> None:
    model, X = prepared(ResNet()), torch.randn(2, 3, 16, 16)
    sparsify_(model)
    block = model.blocks[0]
    replica = block._replicate_for_data_parallel()
    assert type(replica) is type(block) and replica.forward.__func__ is block.forward.__func__
    X = model.stem(X)
    for name, layer in block._modules.items():
        twin = layer._replicate_for_data_parallel()
        twin.bias = getattr(layer, "bias", None)
        twin._modules = layer._modules
        replica._modules[name] = twin
    with torch.no_grad():
        assert torch.equal(replica(X), block(X))


def test_gradient_reaches_the_input() -> None:
    model, X = prepared(Perceptron()), torch.randn(3, 16, requires_grad=True)
    (want,) = torch.autograd.grad(model(X).square().sum(), X)
    sparsify_(model)
    (got,) = torch.autograd.grad(model(X).square().sum(), X)
    torch.testing.assert_close(got, want)


def test_kinds_of_module() -> None:
    model = prepared(ResNet())
    sparsify_(model)
    assert isinstance(model.stem[0], SparseConvPool2d)
    assert isinstance(model.blocks[0].conv3, SparseConv2d)
    assert isinstance(model.fc, SparseLinear)
    assert sparse_triton.nn.MODULES.keys() >= {"SparseConv2d", "SparseConvPool2d", "SparseLinear"}
