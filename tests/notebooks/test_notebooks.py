"""Every notebook runs from top to bottom, quietly, and its two files say the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

WANTED = "needs pip install 'sparse-triton[notebooks]'"
jupytext = pytest.importorskip("jupytext", reason=WANTED)
nbclient = pytest.importorskip("nbclient", reason=WANTED)
pytest.importorskip("ipykernel", reason=WANTED)
nbformat = pytest.importorskip("nbformat", reason=WANTED)

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SECONDS = 120  # of one cell; all notebooks together are to take less than three minutes


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(1, 6)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pair_is_in_step_and_stripped(path: Path) -> None:
    """``make notebooks`` writes the .ipynb again."""
    paired = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert cells(paired) == cells(jupytext.read(path))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    """No cell fails or warns, and there is something to look at."""
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    # One thread: pytest may run several notebooks side by side.
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
