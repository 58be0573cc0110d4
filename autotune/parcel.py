"""A built kernel, carried from the process that compiled it to the one that times it.

The binary itself stays in Triton's disk cache; a parcel holds the source, so that the receiver need
not generate it again (which takes seconds for big unrolled programs) and finds the binary there.
"""

from __future__ import annotations

import importlib
import io
import pickle
from pathlib import Path
from typing import Any

from triton.runtime.jit import JITFunction

from sparse_triton.build import TritonKernel, compile_kernel


class _Packer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TritonKernel):
            return compile_kernel, (obj.source, obj.compiled.metadata.target.arch)
        if isinstance(obj, JITFunction):
            return _function, (obj.fn.__module__, obj.fn.__qualname__)
        return NotImplemented


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def pack(kernel: Any, path: Path) -> None:
    """Write a parcel. Raises what ``pickle`` raises for a kernel that cannot travel."""
    out = io.BytesIO()
    _Packer(out, protocol=pickle.HIGHEST_PROTOCOL).dump(kernel)
    path.write_bytes(out.getvalue())


def unpack(path: Path) -> Any:
    """The kernel of a parcel that this process or one of its children wrote."""
    with open(path, "rb") as f:
        return pickle.load(f)
