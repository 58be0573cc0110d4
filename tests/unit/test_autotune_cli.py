"""``python -m autotune`` and ``warmup``, on the CPU and on recorded times."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune import tune_model
from autotune.bench import Bench
from autotune.cli import INTERRUPTED, main
from autotune.replay import ReplayBench, load
from autotune.report import write_report
from autotune.tune_model import SIBLING_TRIALS, warmup
from autotune.tuning import Study, Tuning
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem
from sparse_triton.records import Entry
from sparse_triton.store import Store
from tests.support import weight
from tests.unit.test_autotune_weights import write_npz, write_smtx

RECORDING = Path(__file__).parents[1] / "data" / "replay_h100.json.gz"
TINY = autotune.Budget("tiny", 4, 2.0, "random")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder; three of its weights are siblings."""
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path / "store"))
    monkeypatch.setitem(autotune.BUDGETS, "quick", TINY)
    for i in range(3):
        write_smtx(tmp_path / "model" / f"sibling_{i}.smtx", weight("random", 16, 32, 0.1, i))
    write_npz(tmp_path / "model" / "other.npz", weight("random", 24, 16, 0.2))
    return tmp_path / "model"


def cli(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_from_dry_run_to_prune(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm = ("warmup", folder, "--device", "cpu", "--n", "9")
    plan = cli(capsys, *warm, "--dry-run")
    assert sorted(r["configs"] for r in plan) == [4, 4, SIBLING_TRIALS, SIBLING_TRIALS]
    assert not (tmp_path / "store").exists()

    first = cli(capsys, *warm)
    assert [w["weight"] for w in first["weights"]] == [
        "other", "sibling_0", "sibling_1", "sibling_2",
    ]  # fmt: skip
    assert first["measured"] == sum(w["measured"] for w in first["weights"]) > 0
    assert sum(bool(w["from"]) for w in first["weights"]) == 2
    assert all(w["x dense"] and w["us"] > 0 and w["family"] for w in first["weights"])

    second = cli(capsys, *warm)
    assert second["measured"] == 0
    assert [w["us"] for w in second["weights"]] == [w["us"] for w in first["weights"]]

    shown = cli(capsys, "show")
    assert len(shown) == 4 and Counter(bool(r["note"]) for r in shown)[True] == 2
    pages = cli(capsys, "report", "--out", tmp_path / "report")
    assert len(pages) == 4 and (tmp_path / "report" / "index.html").exists()
    archive = tmp_path / "a.zip"
    assert cli(capsys, "export", archive)["entries"] == 4
    there = ("--store", tmp_path / "there")
    assert cli(capsys, "import", archive, *there)["new"] == 4
    assert len(cli(capsys, "show", *there)) == 4
    assert cli(capsys, "export", tmp_path / "r.gz", "--recording")["studies"] == 4
    assert len(load(tmp_path / "r.gz")) == 4
    assert len(cli(capsys, "prune", "--everything")) == 4
    assert cli(capsys, "show") == []


def test_the_text_ends_with_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warm = ["warmup", str(folder), "--device", "cpu", "--n", "9"]
    assert main(warm) == 0
    text = capsys.readouterr()
    for word in (
        "weight",
        "sparsity",
        "family",
        "config",
        "x dense",
        "geometric mean",
        "s a weight",
    ):
        assert word in text.out
    assert "all:" in text.err  # the bar over all, with the time left
    assert main([*warm, "--dry-run"]) == 0 and "sibling_1" in capsys.readouterr().out
    assert main(["show"]) == 0 and "x dense" in capsys.readouterr().out


def test_every_instance_is_searched_if_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm = ("warmup", folder, "--device", "cpu", "--n", "9", "--every-instance")
    assert [r["from"] for r in cli(capsys, *warm, "--dry-run")] == [""] * 4
    assert all(w["from"] == "" for w in cli(capsys, *warm)["weights"])


def test_columns_come_from_a_map(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "n.txt").write_text("other, 7\nsibling_0 3 5\n")
    warm = ("warmup", folder, "--device", "cpu", "--n-map", tmp_path / "n.txt")
    result = cli(capsys, *warm)
    assert [(w["weight"], w["N"]) for w in result["weights"]] == [
        ("other", 7), ("sibling_0", 3), ("sibling_0", 5),
    ]  # fmt: skip
    assert result["skipped"] == ["sibling_1", "sibling_2"]


def test_a_convolution_says_what_it_is(tmp_path: Path) -> None:
    from autotune.table import warmup_text

    conv = torch.nn.Conv2d(4, 8, 3)
    conv.weight.data *= torch.rand_like(conv.weight) < 0.2
    seen = warmup((conv, torch.randn(1, 4, 6, 6)), budget=TINY, store=tmp_path, device="cpu")
    assert seen.tuned[0].job.key.problem.kind == "conv"
    assert "were tuned as the product" not in warmup_text(seen)
    guessed = warmup(conv, [16], budget=TINY, store=tmp_path, device="cpu")
    assert guessed.tuned[0].job.key.problem.kind == "spmm"
    assert "1 convolutions larger than 1x1 were tuned as the product" in warmup_text(guessed)


@pytest.mark.parametrize(
    "args,words",
    [
        (("warmup", "nonsense"), "neither a folder nor"),
        (("warmup", "none.pt"), "there is no file"),
        (("import", "none.zip"), "not a readable archive"),
    ],
)
def test_errors_are_explained(
    args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 1
    text = capsys.readouterr()
    assert words in text.err and "Traceback" not in text.err


@pytest.mark.parametrize("args", [(), ("warmup",), ("warmup", "x", "--n", "0"), ("fly",)])
def test_usage(args: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as e:
        main(args)
    assert e.value.code == 2


def test_an_interrupt_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Tuning.step, []

    def step(self: Tuning, timeout_s: float = 1.0) -> bool:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, timeout_s)

    monkeypatch.setattr(Tuning, "step", step)
    warm = ("warmup", folder, "--device", "cpu", "--n", "9")
    assert main([str(a) for a in warm]) == INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().err
    kept = [t for e in Store().entries() for t in e.trials if t.outcome != "invalid"]
    assert len(kept) == 2
    monkeypatch.undo()
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(folder.parent / "store"))
    again = cli(capsys, *warm, "--seconds", "2")
    assert again["outcomes"]["ok"] + again["outcomes"].get("slow", 0) >= 2


# -- recorded times --------------------------------------------------------------------------------


def replayed(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[ReplayBench]]:
    """``bench_for`` on a recording's device; the benches it made."""
    recording = load(RECORDING)[0]
    monkeypatch.setattr(Device, "of", staticmethod(lambda device: recording.device))
    monkeypatch.setattr(tune_model, "needs_compiling", lambda device: False)
    benches: list[ReplayBench] = []

    def bench_for(W: Any, problem: SpmmProblem, device: Any, pool: Any) -> Bench:
        benches.append(ReplayBench(recording, capacity=5))
        return benches[-1]

    return bench_for, benches


def test_siblings_copy_from_their_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench_for, benches = replayed(monkeypatch)
    model = {f"layer_{i}": weight("random", 64, 256, 0.1, i) for i in range(4)}
    result = warmup(model, [3136], store=tmp_path, device="cpu", bench_for=bench_for)
    leader, *siblings = result.tuned
    assert [len(b.measured) for b in benches] == [40, *[SIBLING_TRIALS] * 3]
    assert leader.leader == "" and {t.leader for t in siblings} == {leader.job.name}
    assert {t.result.config for t in siblings} == {leader.result.config}
    notes = [t.result.entry.note for t in siblings]
    assert all(leader.job.name in note for note in notes)
    benches.clear()
    again = warmup(model, [3136], store=tmp_path, device="cpu", bench_for=bench_for)
    assert again.measured == 0 and not any(b.measured for b in benches)
    benches.clear()
    every = warmup(
        model, [3136], store=tmp_path, device="cpu", bench_for=bench_for, every_instance=True
    )
    assert [len(b.measured) for b in benches] == [0, *[40 - SIBLING_TRIALS] * 3] or every.measured


def test_two_studies_may_be_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a compile pool: stepping in turn loses and repeats nothing."""
    bench_for, benches = replayed(monkeypatch)
    monkeypatch.setattr(tune_model, "needs_compiling", lambda device: True)
    model = {f"layer_{i}": weight("random", 64, 256, 0.1, i) for i in range(3)}
    result = warmup(
        model, [3136], store=tmp_path, device="cpu", bench_for=bench_for, every_instance=True
    )
    assert [t.result.measured for t in result.tuned] == [40] * 3
    for bench in benches:
        assert len(bench.measured) == len(set(bench.measured)) == 40


def test_reports_of_recorded_studies_are_the_same_each_time(tmp_path: Path) -> None:
    pages = []
    for i in range(2):
        entry = _studied(Store(tmp_path / f"store{i}"), load(RECORDING)[2])
        (page,) = write_report([entry], tmp_path / f"out{i}")
        pages.append(page.read_text().replace(entry.created, ""))
        names = {p.name for p in page.parent.glob("*.png")}
        assert {"history.png", "against_dense.png", "importances.png"} <= names
        assert any(n.startswith("heat_") for n in names)
        assert all(p.stat().st_size > 2000 for p in page.parent.glob("*.png"))
    assert pages[0] == pages[1]
    for words in ("times faster than dense", "fANOVA", "log2_M_blocks", "invalid", "proposed by"):
        assert words in pages[0]


def _studied(store: Store, recording: Entry) -> Entry:
    budget = autotune.Budget("some", 40, None, "random")
    tuning = Tuning(Study(recording.key, recording.device, store, budget), ReplayBench(recording))
    while tuning.step():
        pass
    return tuning.finish().entry
