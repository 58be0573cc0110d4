"""One file: tensors as safetensors, and a JSON document with their checksums in its header.

There is no pickle: reading runs no code of the file. Writing is crash-safe (``atomic.replacing``).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialised
from safetensors.torch import save_file

from sparse_triton.atomic import replacing
from sparse_triton.errors import FileFormatError, InputError

FORMAT, SCHEMA = "sparse-triton model", 1
DOCUMENT, CHECKSUM = "sparse_triton", "sparse_triton_sha256"  # keys of the header's metadata
Tensors = dict[str, torch.Tensor]


def write(path: Path, document: dict[str, Any], tensors: Tensors) -> None:
    """Document and tensors to one file. Raises ``InputError`` where it cannot be written."""
    sums = {name: _checksum(t) for name, t in tensors.items()}
    head = {"format": FORMAT, "schema": SCHEMA, **document, "sha256": sums}
    text = json.dumps(head, separators=(",", ":"))
    metadata = {DOCUMENT: text, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}
    try:
        with replacing(path) as beside:
            save_file(tensors, beside, metadata)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{path} cannot be written: {e}") from e


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """What ``write`` wrote, every checksum compared.

    Raises ``InputError`` where there is no file, ``FileFormatError`` for one that is truncated,
    changed or not of this format.
    """
    metadata, tensors = _parsed(path)
    document = _document(path, metadata)
    sums = document.get("sha256")
    if not isinstance(sums, dict) or sums.keys() != tensors.keys():
        raise FileFormatError(f"{path} does not hold the tensors it lists; it was changed")
    for name, tensor in tensors.items():
        if _checksum(tensor) != sums[name]:
            raise FileFormatError(
                f"{path}: the bytes of {name!r} are not those that were saved; the file is "
                "damaged or was changed. Take a fresh copy"
            )
    return document, tensors


def is_ours(path: Path) -> bool:
    """Whether the file says that ``write`` wrote it; False for what cannot be read."""
    try:
        with safe_open(path, framework="pt") as f:
            return DOCUMENT in (f.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _parsed(path: Path) -> tuple[dict[str, str], Tensors]:
    """The header's metadata and the tensors, from one reading: another process may put a new file
    in this one's place at any time, and ``safe_open`` opens the path twice."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    try:
        tensors: Tensors = deserialised(content)
    except (SafetensorError, ValueError) as e:
        raise FileFormatError(
            f"{path} is not a whole safetensors file ({e}); it is truncated or of another kind"
        ) from e
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {}), tensors


def _document(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    text = metadata.get(DOCUMENT)
    if text is None:
        raise FileFormatError(
            f"{path} was not written by sparse_triton.save; read a plain safetensors file with "
            "safetensors.torch.load_file"
        )
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(CHECKSUM):
        raise FileFormatError(f"{path}: its document was changed after it was saved")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise FileFormatError(f"{path}: its document is not JSON: {e}") from e
    found = (document.get("format"), document.get("schema")) if isinstance(document, dict) else ()
    if found != (FORMAT, SCHEMA):
        raise FileFormatError(f"{path} says {found}, this version reads {(FORMAT, SCHEMA)}")
    return dict(document)


def _checksum(t: torch.Tensor) -> str:
    """SHA-256 over dtype, shape and bytes."""
    digest = hashlib.sha256(f"{t.dtype}{tuple(t.shape)}".encode())
    if t.numel():
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
