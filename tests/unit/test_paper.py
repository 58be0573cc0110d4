"""Reproduced results as tables, pictures and JSON; what is measured needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.paper import PARTS, Part, ablation, convolution, structured
from benchmarks.paper.command import arguments
from benchmarks.paper.write import load, page, save, table
from sparse_triton.device import Device
from sparse_triton.errors import DeviceError, InputError
from sparse_triton.plan import why_not
from sparse_triton.problem import SpmmProblem

pytest.importorskip("matplotlib")
ENVIRONMENT = {"device": "a GPU", "torch": "2", "triton": "3", "driver": "5"}
SPMM = Path(__file__).parents[2] / "benchmarks" / "results" / "spmm.json"


PRODUCTS = [r for r in json.loads(SPMM.read_text())["rows"] if r["batch"] == 1]


RESNET = ("ResNet-50 1", "ResNet-50 1, published values")


def layer(name: str, contestants: Iterable[str]) -> dict[str, Any]:
    us = {n: {"us": 20.0 if n.startswith("cudnn") else 10.0} for n in contestants}
    shape = {"C": 64, "size": 56, "M": 64, "sparsity": "0.9", "count": 1}
    return {"layer": name, "us": us, **shape}


def rows_of(part: Part) -> list[dict[str, Any]]:
    if part.name in ("sparsert-table-1", "sparsert-fig-4", "survey-fig-10"):
        return part.measure(SimpleNamespace(products=PRODUCTS))  # type: ignore[arg-type]
    shape = {"problem": 1, "M": 64, "K": 256, "N": 3136, "nnz": 1638}
    match part.name:
        case "sparsert-fig-8":
            us = dict.fromkeys(ablation.VARIANTS, 2.0) | {ablation.FULL: 1.0}
            return [shape | {"us": us, "config": dict.fromkeys(us, "gather(…)")}]
        case "survey-fig-11":
            return [{**r, "sparsity": s} for s in ("0.5", "0.9") for r in PRODUCTS[:1]]
        case "sparsert-table-3":
            return [layer(name, convolution.NAMES) | {"t4_speedup": 3.7} for name in RESNET]
        case "survey-vgg19-conv":
            return [layer("VGG-19 64, 224", convolution.NAMES) | {"count": 3}]
        case "survey-vgg19-conv-pool":
            return [layer("VGG-19 64, 224", convolution.POOL_NAMES)]
        case "structured-fig-2":
            return [{"n": n, "dense_us": 30.0, "sparse_us": 20.0} for n in (512, 1024)]
    raise AssertionError(part.name)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_saved_and_shown(part: Part, tmp_path: Path) -> None:
    rows = rows_of(part)
    save(part, rows, ENVIRONMENT, tmp_path)
    found = load(part, tmp_path)
    assert found is not None and found["rows"] == rows and found["environment"] == ENVIRONMENT
    assert (tmp_path / f"{part.name}.png").stat().st_size > 5000
    lines = table(part, found["rows"]).splitlines()
    assert len({line.count(" | ") for line in lines}) == 1
    text = page([part], tmp_path, "pictures")
    assert part.differs in text and f"pictures/{part.name}.png" in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    assert "Not measured yet" in page(PARTS.values(), tmp_path, "pictures")


def test_table_1_has_the_published_means() -> None:
    """The single problems' figures and the abstract's means were taken down independently."""
    part = PARTS["sparsert-table-1"]
    assert "3.4 of these; the abstract states 3.4" in table(part, rows_of(part))
    assert "5.4 of these; the abstract states 5.4" in table(part, rows_of(part))


def test_layers_count_as_often_as_the_network_has_them() -> None:
    text = table(PARTS["survey-vgg19-conv"], rows_of(PARTS["survey-vgg19-conv"]))
    assert "| **all** | 3 | **60** | **60** | **60** | **30** | **2.00** (geometric mean)" in text


def test_published_convolutions_by_problem_and_sparsity(tmp_path: Path) -> None:
    problem = {"problem": 2, "t4_speedup_over_cudnn": {"0.9": 2.0, "0.95": 3.5}}
    (tmp_path / "problems.json").write_text(json.dumps({"conv3x3": [problem]}))
    assert convolution.published_speedups(tmp_path) == {("2", "0.9"): 2.0, ("2", "0.95"): 3.5}


def test_ablation_switches_one_thing_each() -> None:
    problem, device = SpmmProblem(128, 128, 3136, 1638), Device.virtual_cuda(90)
    grids = ablation.grids(problem, device)
    assert all(grids[name] for name in ablation.VARIANTS)
    assert not [c for cs in grids.values() for c in cs if why_not(problem, c, device)]
    kinds = {name: {(c.kernel, c.row_blocks) for c in cs} for name, cs in grids.items()}
    assert kinds[ablation.FULL] == {("unrolled", "even_nnz")}
    assert kinds["no load balancing"] == {("unrolled", "even_rows")}
    assert {kernel for kernel, _ in kinds["no unrolling"]} == {"gather"}
    assert len(grids["no autotuning"]) == 1 and set(grids["no autotuning"]) < set(
        grids["everything"]
    )


def test_two_of_four() -> None:
    w = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    kept = structured.pruned_2_4(w)
    assert ((kept != 0).view(-1, 4).sum(1) == 2).all()
    lost = (w - kept).view(-1, 4).abs().amax(1)
    assert (kept.view(-1, 4).abs().topk(2).values[:, 1] >= lost).all()


def test_two_of_four_is_held_to_a_bound() -> None:
    draw = torch.Generator().manual_seed(0)
    W = structured.pruned_2_4(torch.randn(64, 64, generator=draw).half())
    X = torch.randn(64, 64, generator=draw).half()
    Y = (W.float() @ X.float()).half()
    assert structured.error_over_bound(Y, W, X) <= 1.0
    Y[3, 5] += 0.1
    assert structured.error_over_bound(Y, W, X) > 1.0


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    arguments(parser, tmp_path)
    args = parser.parse_args(["--only", "sparsert-table-9"])
    with pytest.raises(InputError, match="got sparsert-table-9"):
        args.command(args)
    part = PARTS["sparsert-table-1"]
    save(part, rows_of(part), ENVIRONMENT, tmp_path / "paper")
    args = parser.parse_args(["--redraw"])
    args.command(args)
    assert "64·256·3136" in capsys.readouterr().out
    if not torch.cuda.is_available():
        args = parser.parse_args([])
        with pytest.raises(DeviceError, match="--redraw"):
            args.command(args)


def test_what_other_benchmarks_saved_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    (tmp_path / "problems.json").write_text(json.dumps({"conv3x3": []}))
    (tmp_path / "conv.json").write_text(json.dumps({"environment": ENVIRONMENT, "rows": []}))
    saved = {"environment": ENVIRONMENT, "rows": json.loads(SPMM.read_text())["rows"]}
    (tmp_path / "spmm.json").write_text(json.dumps(saved))
    parser = argparse.ArgumentParser()
    arguments(parser, tmp_path)
    only = "sparsert-table-1,sparsert-fig-8,survey-vgg19-conv"
    folders = ["--data", str(tmp_path), "--saved", str(tmp_path), "--out", str(tmp_path / "out")]
    args = parser.parse_args(["--only", only, *folders])
    args.command(args)
    made = json.loads((tmp_path / "out" / "sparsert-table-1.json").read_text())
    assert made["environment"] == ENVIRONMENT and made["rows"] == PRODUCTS
    assert {p.stem for p in (tmp_path / "out").iterdir()} == {"sparsert-table-1"}
    assert "not measured: conv.json" in capsys.readouterr().out
