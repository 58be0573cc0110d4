"""Sparse weights in all the forms a model comes in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from autotune.jobs import jobs_of, with_siblings
from autotune.weight import Weight
from autotune.weights_in import find_weights, read_n_map, with_columns
from sparse_triton import SparseMatrix
from sparse_triton.errors import FileFormatError, InputError
from sparse_triton.problem import ConvProblem, SpmmProblem
from tests.support import dense_weight, weight


def write_smtx(path: Path, W: SparseMatrix) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    csr = W.csr
    lines = [
        f"{W.shape[0]}, {W.shape[1]}, {W.nnz}",
        " ".join(map(str, csr.row_offsets)),
        " ".join(map(str, csr.column_indices)),
    ]
    path.write_text("\n".join(lines) + "\n")


def write_npz(path: Path, W: SparseMatrix) -> None:
    c = W.csr
    np.savez(
        path, shape=np.asarray(W.shape), row_offsets=c.row_offsets,
        column_indices=c.column_indices, values=c.values,
    )  # fmt: skip


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.Conv2d(8, 16, 1, bias=False),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 32),
        torch.nn.Linear(32, 10),
    )
    for i in (0, 1, 4):
        net[i].weight.data *= torch.rand_like(net[i].weight) < 0.2
    return net


def test_modules_tell_their_columns() -> None:
    found = {w.name: w for w in find_weights((model(), torch.randn(2, 3, 8, 8)))}
    assert set(found) == {"0.weight", "1.weight", "4.weight"}  # 5 is dense
    conv, pointwise, linear = found["0.weight"], found["1.weight"], found["4.weight"]
    assert (conv.kind, conv.matrix.shape, conv.N) == ("conv 3x3", (8, 27), ())
    (slid,) = conv.problems()
    assert isinstance(slid, ConvProblem) and slid.padding == (1, 1, 1, 1) and slid.batch == 2
    assert slid.epilogue.bias and (slid.H, slid.W, slid.C, slid.M) == (8, 8, 3, 8)
    (product,) = pointwise.problems("bfloat16")
    assert isinstance(product, SpmmProblem) and not product.epilogue.bias
    assert (product.N, product.batch, product.x_dtype) == (64, 2, "bfloat16")
    assert (linear.kind, linear.N, linear.layout, linear.bias) == ("linear", (2,), "column", True)
    problem = linear.problem(2)
    assert (problem.x_layout, problem.y_layout, problem.epilogue.bias) == ("column", "column", True)


def test_without_example_inputs_columns_are_asked_for() -> None:
    found = find_weights(model())
    assert all(w.N == () for w in found)
    assert all(w.N == (1, 7) for w in with_columns(found, (1, 7), {}))


def test_tied_and_masked_weights() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    net[1].weight = net[0].weight
    prune.random_unstructured(net[0], "weight", 0.9)
    (only,) = find_weights(torch.nn.Sequential(net[0]))
    assert only.matrix.nnz == 26
    state = net[0].state_dict()
    (again,) = find_weights(state)
    assert again.name == "weight" and again.matrix.nnz == 26 and again.bias
    tied = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    tied[0].weight.data *= torch.rand(8, 8) < 0.2
    tied[1].weight = tied[0].weight
    assert len(find_weights(tied)) == 1


def test_state_dicts(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "m.pt")
    torch.save({"state_dict": model().state_dict(), "epoch": 3}, tmp_path / "nested.pth")
    for name in ("m.pt", "nested.pth"):
        found = find_weights(tmp_path / name)
        assert [w.name for w in found] == ["0.weight", "1.weight", "4.weight"]
        assert [w.bias for w in found] == [True, False, True]


def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FileFormatError, match="state dict is needed"):
        find_weights(tmp_path / "list.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(FileFormatError, match="not a state dict"):
        find_weights(tmp_path / "junk.pt")
    with pytest.raises(InputError, match="there is no file"):
        find_weights(tmp_path / "none.pt")


def test_safetensors(tmp_path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        with pytest.raises(InputError, match=r"sparse-triton\[models\]"):
            find_weights(tmp_path / "m.safetensors")
        return
    save_file(model().state_dict(), tmp_path / "m.safetensors")
    assert len(find_weights(tmp_path / "m.safetensors")) == 3


def test_folders_are_searched_to_the_bottom(tmp_path: Path) -> None:
    write_smtx(tmp_path / "a" / "b" / "deep.smtx", weight("random", 16, 32))
    write_npz(tmp_path / "flat.npz", weight("random", 8, 16))
    write_smtx(tmp_path / "dense.smtx", weight("full", 8, 8))
    found = find_weights(tmp_path)
    assert [w.name for w in found] == ["a/b/deep", "flat"]
    assert [w.kind for w in found] == ["matrix", "matrix"]
    assert len(find_weights(tmp_path, min_sparsity=0.0)) == 3
    assert find_weights(tmp_path / "flat.npz")[0].name == "flat"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.smtx"):
        find_weights(tmp_path)


def test_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_models.py").write_text(
        "import torch\n"
        "def make():\n"
        "    m = torch.nn.Linear(16, 16)\n"
        "    m.weight.data *= torch.eye(16)\n"
        "    return m, torch.ones(5, 16)\n"
        "def named():\n"
        "    return make()[0], {'input': torch.ones(3, 16)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_weights("some_models:make")[0].N == (5,)
    assert find_weights("some_models:named")[0].N == (3,)
    for wrong in ("some_models:nothing", "no_such_module:make"):
        with pytest.raises(InputError, match="does not name a function"):
            find_weights(wrong)
    with pytest.raises(InputError, match="neither a folder nor"):
        find_weights("nonsense")
    sys.modules.pop("some_models", None)


def test_mappings_hold_tensors_or_matrices() -> None:
    found = find_weights({"a": weight("random", 8, 16), "b": dense_weight("random", 8, 16)})
    assert [(w.name, w.kind) for w in found] == [("a", "matrix"), ("b", "linear")]


def test_n_maps(tmp_path: Path) -> None:
    path = tmp_path / "n.txt"
    path.write_text("# pixels\nlayer_1,3136\nother/layer_2  49 196 # two\n\n")
    n_map = read_n_map(path)
    assert n_map == {"layer_1": (3136,), "other/layer_2": (49, 196)}
    W = weight("random", 8, 16)
    weights = [Weight("x/layer_1", W), Weight("other/layer_2", W), Weight("third", W, N=(9,))]
    named = with_columns([*weights, Weight("fourth", W)], (5,), n_map)
    assert [w.N for w in named] == [(3136,), (49, 196), (9,), (5,)]


@pytest.mark.parametrize("text", ["name", "name x", "name 0", "name -3"])
def test_broken_n_maps(tmp_path: Path, text: str) -> None:
    (tmp_path / "n").write_text(text)
    with pytest.raises(FileFormatError, match="must hold lines"):
        read_n_map(tmp_path / "n")
    with pytest.raises(InputError, match="there is no file"):
        read_n_map(tmp_path / "none")


# -- jobs ------------------------------------------------------------------------------------------


def test_equal_problems_are_one_job() -> None:
    W = weight("random", 16, 32)
    same = weight("random", 16, 32)
    other = weight("random", 16, 32, seed=1)
    jobs = jobs_of([Weight(n, m, N=(4,)) for n, m in (("a", W), ("b", same), ("c", other))], None)
    assert [job.names for job in jobs] == [["a", "b"], ["c"]] and jobs[0].name == "a (+1)"
    assert len(jobs_of([Weight("a", W, N=(4, 8))], None)) == 2
    assert jobs_of([Weight("a", W, N=(4,))], "float16")[0].key.problem.x_dtype == "float16"
    assert jobs_of([Weight("a", W)], None) == []


def test_siblings_have_equal_shape_and_similar_sparsity() -> None:
    def named(name: str, M: int, density: float, seed: int, N: int = 8) -> Weight:
        return Weight(name, weight("random", M, 128, density, seed), N=(N,))

    weights = [
        *(named(f"s{i}", 64, 0.10, i) for i in range(3)),
        named("denser", 64, 0.3, 9),
        named("taller", 96, 0.10, 9),
        named("wider", 64, 0.10, 9, N=16),
    ]
    leaders = with_siblings(jobs_of(weights, None))
    assert len(leaders) == 4
    groups = sorted(sorted([j.name, *(s.name for s in j.siblings)]) for j in leaders)
    assert groups == [["denser"], ["s0", "s1", "s2"], ["taller"], ["wider"]]
    nnz = [j.key.problem.nnz for j in leaders]
    assert nnz == sorted(nnz)


def test_convolutions_are_seen_as_they_are_called() -> None:
    """Stride, groups and layout are the layer's; a grouped weight's sparsity is its own."""
    conv = torch.nn.Conv2d(8, 8, (3, 1), stride=2, padding=(1, 0), groups=4, bias=False)
    conv.weight.data *= torch.rand_like(conv.weight) < 0.3
    reflected = torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    reflected.weight.data.zero_()[0] = 1.0
    X = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    (found,) = find_weights((torch.nn.Sequential(conv, reflected), X), min_sparsity=0.0)
    (problem,) = found.problems()
    assert isinstance(problem, ConvProblem)
    assert (problem.stride, problem.padding, problem.groups) == ((2, 2), (1, 1, 0, 0), 4)
    assert problem.x_layout == "column" and found.matrix.shape == (8, 24)
    zeros = float((conv.weight == 0).float().mean())
    assert found.sparsity == pytest.approx(zeros) == problem.sparsity
    assert with_columns([found], (7,), {})[0].N == ()
