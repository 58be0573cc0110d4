"""``python -m benchmarks models`` on a small network, without a GPU: every field is there."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import models, models_command, models_report, report
from benchmarks.__main__ import main
from benchmarks.dense_models import compiled_calls, fold_batch_norms_
from benchmarks.models import OURS, Options, row
from benchmarks.networks import NETWORKS, Network
from benchmarks.networks.weights import drawn_pattern, normal_values, set_weight
from sparse_triton import SparsifyConfig, sparsify_
from sparse_triton.nn import SparseLinear, SparseModule


def small() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.LayerNorm(256))
    for i in (0, 2):
        set_weight(model[i], normal_values(drawn_pattern(*model[i].weight.shape, seed=i), seed=i))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def result() -> models.Row:
    return row("small", small(), torch.randn(1, 64, 256), Options(budget=None))


def test_a_row_holds_what_the_tables_need(result: models.Row, tmp_path: Path) -> None:
    assert result["sparse_layers"] == result["layers"] == len(result["choices"]) == 2
    assert result["us"].keys() == result["error"].keys() == {OURS, models.BASELINE}
    assert result["file_bytes"][OURS] < 0.2 * result["file_bytes"][models.BASELINE]
    assert result["weight_bytes"][OURS] < 0.3 * result["weight_bytes"][models.BASELINE]
    rows = [result, {**result, "network": "other", "batch": 32}]
    text = models_report.latencies(rows) + models_report.sizes(rows)
    assert text.count("| small | 1 |") == 2 and text.count("| other | 32 |") == 2
    assert "2 of 2" in text and "2 cpu" in text
    models_report.plot(rows, {"device": "a CPU"}, tmp_path / "models.png")
    assert (tmp_path / "models.png").stat().st_size > 1000


def test_a_wrong_result_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SparseLinear.forward
    monkeypatch.setattr(SparseLinear, "forward", lambda m, x: right(m, x) * 1.001)
    with pytest.raises(AssertionError, match="small: error"):
        row("small", small(), torch.randn(1, 64, 256), Options(budget=None))


def test_compiled_networks_take_part_or_it_is_said_why_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = small(), torch.randn(1, 64, 256)
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)  # the search takes minutes
    calls, left_out = compiled_calls(model, x, seconds=60.0)
    assert torch.equal(calls["compiled_fp32"](), model(x)) and not left_out

    def endless(module: nn.Module, mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(x: torch.Tensor) -> torch.Tensor:
            try:
                time.sleep(30.0)
            except TimeoutError as e:
                raise RuntimeError("the backend failed") from e  # as compilers wrap what they meet
            return x

        return call

    monkeypatch.setattr(torch, "compile", endless)
    started = time.monotonic()
    result = row("small", model, x, Options(budget=None, compiled=0.1))
    assert result["left_out"] == {"compiled_fp32": "not compiled within 0.1 s"}
    assert "compiled_fp32" not in result["us"] and time.monotonic() - started < 20.0
    said = models_report.searched([result])
    assert "convolutions from" in said and "(small at batch 1)" in said
    assert said.endswith("small at batch 1, compiled fp32: not compiled within 0.1 s.")
    assert not models_report.searched([row("small", model, x, Options(budget=None))])


def test_batch_norms_are_folded_around_sparse_layers_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
    ).eval().requires_grad_(False)  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.running_mean)
    set_weight(model[3], normal_values(drawn_pattern(32, 32, seed=0), seed=0))
    x = torch.randn(1, 3, 7, 7)
    expected = model(x)
    sparse = copy.deepcopy(model)
    sparsify_(sparse, SparsifyConfig(min_gain=0.0))
    for folded in (fold_batch_norms_(copy.deepcopy(model)), fold_batch_norms_(sparse)):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(x), expected)
    assert sum(isinstance(m, SparseModule) for m in sparse.modules()) == 1


def test_the_command_writes_json_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network("small", lambda data: small(), (64, 256), (1, 2), "")
    monkeypatch.setitem(NETWORKS, "small", network)
    (tmp_path / "problems.json").write_text("{}")
    out = tmp_path / "out"
    main([
        "models", "--networks", "small", "--device", "cpu", "--budget", "off",
        "--data", str(tmp_path), "--json", f"{out}.json", "--png", f"{out}.png",
    ])  # fmt: skip
    result = json.loads(Path(f"{out}.json").read_text())
    assert [r["batch"] for r in result["rows"]] == [1, 2] and "torch" in result["environment"]
    assert Path(f"{out}.png").stat().st_size > 1000
    assert "| small | 2 |" in capsys.readouterr().out


def test_rows_of_another_run_on_the_same_machine_stay(tmp_path: Path, result: models.Row) -> None:
    facts = {"device": "a CPU"}
    path = tmp_path / "models.json"
    old = {**result, "network": "vgg19"}
    path.write_text(json.dumps({"environment": facts, "rows": [old, result]}))
    rows = report.known_rows(path, facts)
    assert rows == [old, result] and report.known_rows(path, {"device": "other"}) == []
    again = {**result, "layers": 99}
    assert models_command._with(rows, again) == [old, again]
