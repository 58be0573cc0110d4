"""What the documentation shows runs, top to bottom, on a machine without a GPU."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pages import write_pages

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SHOWN = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^python (-m .*?)\s*(?:#.*)?$", re.MULTILINE)
LINK = re.compile(r"\]\((?!http|#)([^)\s#]+)")


def examples(page: Path) -> list[str]:
    return SHOWN.findall(page.read_text())


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=lambda p: p.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of one page share their names, as a reader who pastes them one by one has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSE_TRITON_CACHE_DIR", str(tmp_path / "store"))
    names: dict[str, object] = {"__name__": page.stem}
    for example in examples(page):
        exec(compile(example, str(page), "exec"), names)


def test_readme_from_top_to_bottom(tmp_path: Path) -> None:
    """Each command works after the examples have run; selftest has its own tests."""
    readme = (ROOT / "README.md").read_text()
    names = {"SPARSE_TRITON_CACHE_DIR": str(tmp_path / "store"), "PYTHONPATH": str(ROOT)}
    script = "\n".join(examples(ROOT / "README.md"))
    commands = [c for c in COMMANDS.findall(readme) if "selftest" not in c]
    assert len(commands) >= 4
    for arguments in (["-c", script], *(shlex.split(c) for c in commands)):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=os.environ | names,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Notebooks are copied beside the pages when the documentation is built."""
    for target in LINK.findall(page.read_text()):
        beside = page.parent / target
        assert beside.exists() or (ROOT / target).exists(), f"{page.name}: {target}"


def test_tables_are_generated(tmp_path: Path) -> None:
    """``python -m benchmarks readme`` changes nothing: no figure was typed or forgotten."""
    for name in ("README.md", "docs/performance.md", "docs/literature.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "benchmarks/results")
    for page in write_pages(tmp_path):
        assert page.read_text() == (ROOT / page.relative_to(tmp_path)).read_text()
