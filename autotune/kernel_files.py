"""Folders of Triton's disk cache, in and out of an archive.

A copied cache always misses: ``__grp__<name>.json`` lists the files of a kernel by absolute path.
Installing rewrites those paths, so that Triton finds the kernel under its new roof. The folder's
name is the hash of source, compiler and options, the same on every machine with the same versions.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sparse_triton.atomic import write_atomically, write_bytes_atomically

FOLDER = "kernels/"
GROUP = "__grp__"
NAME = re.compile(r"[A-Z2-7]{20,80}")  # base32 of a SHA-256
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}")
NEEDED = (".cubin", ".json", ".so")  # the rest are intermediate forms nobody reads again
MAX_FILE_BYTES = 256 * 2**20


def cache_folder() -> Path:
    from triton import knobs

    return Path(knobs.cache.dir)


def add(z: zipfile.ZipFile, names: Iterable[str]) -> dict[str, int]:
    """Put the named folders, and Triton's own driver stub, into an archive."""
    root = cache_folder()
    stubs = {p.parent.name for p in root.glob("*/cuda_utils*.so")}
    found = missing = 0
    for name in sorted(set(names) | stubs):
        files = [p for p in sorted((root / name).glob("*")) if p.suffix in NEEDED and p.is_file()]
        for p in files:
            z.write(p, f"{FOLDER}{name}/{p.name}")
        found, missing = found + bool(files), missing + (not files)
    return {"kernels": found, "kernels missing": missing}


def left_out(z: zipfile.ZipFile) -> dict[str, int]:
    count = len({PurePosixPath(n).parts[1] for n in z.namelist() if _is_kernel(n)})
    return {"kernels left out (see --with-kernels)": count} if count else {}


def install(z: zipfile.ZipFile) -> dict[str, int]:
    """Write the archive's kernels into this machine's cache; what is there already stays.

    Only names of the expected form are written, one level deep: nothing leaves the cache.
    """
    root = cache_folder()
    members = [m for m in z.infolist() if _is_kernel(m.filename)]
    refused = sum(m.filename.startswith(FOLDER) for m in z.infolist()) - len(members)
    # Groups last: a kernel is visible only when all of its files are there.
    for m in sorted(members, key=lambda m: GROUP in m.filename):
        _, name, file = PurePosixPath(m.filename).parts
        target = root / name / file
        if target.exists():
            continue
        if file.startswith(GROUP):
            write_atomically(target, regrouped(z.read(m).decode(), target.parent))
        else:
            write_bytes_atomically(target, z.read(m))
    installed = {PurePosixPath(m.filename).parts[1] for m in members}
    summary = {"kernels": len(installed)}
    return summary | ({"files refused": refused} if refused else {})


def _is_kernel(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        len(parts) == 3
        and parts[0] + "/" == FOLDER
        and NAME.fullmatch(parts[1]) is not None
        and FILE.fullmatch(parts[2]) is not None
        and PurePosixPath(name).suffix in NEEDED
    )


def regrouped(text: str, folder: Path) -> str:
    """A group file with its paths in ``folder``."""
    children = json.loads(text)["child_paths"]
    return json.dumps({"child_paths": {c: str(folder / PurePosixPath(c).name) for c in children}})
