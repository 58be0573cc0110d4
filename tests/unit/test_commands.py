"""The command line as a user meets it: output, files, exit status, words of the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_triton.commands import demo_digits, main, timing
from sparse_triton.kernels import CONV_FAMILIES, FAMILIES
from sparse_triton.kernels.dense import DenseKernel
from tests.support import weight

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARSE_TRITON_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "CPU_SECONDS", 0.01)


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with ``--json``; its status must be ``status``."""

    def run(*argv: str, status: int = 0) -> Any:
        assert main([*argv, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return run


def write_npz(path: Path, M: int, K: int) -> None:
    csr = weight("random", M, K, 0.1).csr
    np.savez(
        path,
        shape=np.array([M, K]),
        row_offsets=csr.row_offsets,
        column_indices=csr.column_indices,
        values=csr.values,
    )


def test_info_names_every_family(as_json: Run, tmp_path: Path) -> None:
    found = as_json("info", "--device", "cpu")
    assert found["families"]["cpu"] is None and found["families"]["dense"] is None
    assert "runs on cuda" in found["families"]["unrolled"]
    assert found["cache"]["configurations"] == str(tmp_path / "cache")
    assert found["versions"]["torch"] == torch.__version__


def test_explain_reads_both_kinds_of_file(as_json: Run, tmp_path: Path) -> None:
    write_npz(tmp_path / "w.npz", 32, 48)
    (tmp_path / "w.smtx").write_text("2, 4, 3\n0 2 3\n0 3 1\n")
    found = as_json("explain", "w.npz", "20", "--device", "cpu", "--dtype", "float16")
    assert (found["problem"]["M"], found["problem"]["N"]) == (32, 20)
    assert found["problem"]["x_dtype"] == "float16"
    assert {c["family"] for c in found["candidates"]} == set(FAMILIES)
    tokens = as_json("explain", "w.smtx", "5", "--device", "cpu", "--token-major")
    assert tokens["problem"]["nnz"] == 3 and tokens["problem"]["x_layout"] == "column"


def test_selftest_passes_and_counts(as_json: Run) -> None:
    found = as_json("selftest", "--device", "cpu")
    products = {f.name for f in FAMILIES.values() if f.device_kind == "cuda"}
    slid = {f"{f.name} conv" for f in CONV_FAMILIES.values() if f.device_kind == "cuda"}
    assert set(found["skipped"]) == products | slid
    for name in ("cpu", "dense", "cpu conv", "dense conv"):
        assert found["families"][name]["checks"] >= 24
        assert 0 < found["families"][name]["worst"] <= 1


def test_selftest_sees_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bind = DenseKernel.bind

    def wrong(self: DenseKernel, device: torch.device) -> Any:
        right = bind(self, device)

        def run(X: Any, Y: Any, bias: Any, residual: Any) -> None:
            right(X, Y, bias, residual)
            Y[..., -1] = float("nan")

        return run

    monkeypatch.setattr(DenseKernel, "bind", wrong)
    assert main(["selftest", "--device", "cpu", "--family", "dense"]) == 1
    out = capsys.readouterr().out
    assert "FAILED dense: dense(M_blocks=1" in out and "inf x the bound" in out


def test_demo_on_layers_from_a_folder(as_json: Run, tmp_path: Path) -> None:
    (tmp_path / "values").mkdir()
    for i, (M, K) in enumerate([(16, 32), (32, 32)]):
        write_npz(tmp_path / "values" / f"mobilenet_v1_contraction_{i}.npz", M, K)
    problems = [
        {"M": M, "K": 32, "N": N, "weights": {"0.9": "values/mobilenet_v1_contraction_0.npz"}}
        for M, N in ((16, 49), (32, 20))
    ]
    (tmp_path / "problems.json").write_text(json.dumps({"spmm": problems}))
    found = as_json("demo", "--data", str(tmp_path), "--out", "a/b.png", "--device", "cpu")
    assert [(r["layer"], r["M"], r["N"]) for r in found["layers"]] == [
        ("contraction_0", 16, 49),
        ("contraction_1", 32, 20),
    ]
    assert all(r["worst_error"] <= 1 and r["speedup"] > 0 for r in found["layers"])
    assert (tmp_path / "a" / "b.png").read_bytes().startswith(b"\x89PNG")


def test_demo_trains_its_own_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(demo_digits, "HIDDEN", 96)
    monkeypatch.setattr(demo_digits, "EPOCHS", 10)
    assert main(["demo", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "(360 of 360 answers equal" in out and "96 x 96 x 360   90.0%" in out
    assert "[1] heuristic:" in out and (tmp_path / "out" / "demo.png").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["explain", "w.txt", "4"], "ends in .smtx or .npz, got 'w.txt'"),
        (["explain", "missing.npz", "4"], "missing.npz"),
        (["demo", "--data", "nowhere"], "nowhere holds no values/mobilenet_v1"),
        (["info", "--device", "tpu9"], "--device must be cpu, cuda"),
        (["info", "--device", "cuda:99"], "--device cuda:99 is not there"),
    ],
)
def test_mistakes_end_with_status_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err
