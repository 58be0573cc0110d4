"""Sphinx configuration. ``make docs`` builds with warnings as errors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import sparse_triton

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"

project = "sparse-triton"
release = version = sparse_triton.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"sparse-triton {release}"
exclude_patterns = ["README.md"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks carry no outputs. SPARSE_TRITON_DOCS_NOTEBOOKS=auto runs them while building.
nb_execution_mode = os.environ.get("SPARSE_TRITON_DOCS_NOTEBOOKS", "off")
nb_execution_timeout = 300

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines without an empty one among them."""
    for empty, run in groupby(lines, key=lambda line: not line.strip()):
        if not empty:
            yield list(run)


def laid_out(paragraph: list[str]) -> bool:
    """Whether the lines are a table by their alignment, as most of our docstrings are."""
    aligned = (re.match(r"\s|\S.*\S {2,}\S|\S+ {2,}\S", line) for line in paragraph)
    return any(aligned) and not paragraph[0].startswith(">>>")


def escaped(line: str) -> str:
    """A line of prose; between double backticks it is code, elsewhere ``|`` and ``*`` are signs."""
    parts = line.split("``")
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    return "``".join(parts)


def docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep aligned paragraphs as they are written; the rest is prose already."""
    out: list[str] = []
    for paragraph in paragraphs(lines):
        if laid_out(paragraph):
            out += ["::", "", *(f"   {line}" for line in paragraph), ""]
        elif paragraph[0].startswith(">>>"):
            out += [*paragraph, ""]
        else:
            out += [*map(escaped, paragraph), ""]
    lines[:] = out


def setup(app: Any) -> None:
    """The notebooks are pages too; they live beside the documentation, so they are copied in."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, target / notebook.name)
    app.connect("autodoc-process-docstring", docstring)
