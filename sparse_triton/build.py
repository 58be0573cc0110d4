"""Kernel source in, loaded kernel out. Compiling needs no GPU; Triton's own disk cache remembers.

Every Triton kernel of the library begins with the parameters ``x, y, bias, residual``, goes on with
the ``arrays`` and ``scalars`` of its source, and ends with its ``constants``.
"""

from __future__ import annotations

import copy
import functools
import re
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.errors import TritonError
from triton.runtime.driver import driver

from sparse_triton.carveout import prefer_cache
from sparse_triton.errors import BuildError
from sparse_triton.kernel import Kernel, Run

POINTER = {
    "float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16",
    "int16": "*i16", "int32": "*i32", "int64": "*i64",
}  # fmt: skip
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, eq=False)
class KernelSource:
    """A Triton function with everything it is specialised on, and the data it reads besides X.

    x_dtype  dtype of x, y, bias and residual; x, y and residual are 16-byte aligned, bias where
             ``bias_aligned`` says so
    grid     programs along the three axes
    window_bytes  shared memory that the kernel's own PTX uses beyond what it declares
    cached   whether it reads the same lines of x again and again, through the L1 cache
    cluster  programs that share memory, neighbours along the first axis, which has ``cluster``
             programs for each of the grid's
    """

    fn: Any
    constants: Mapping[str, Any]
    x_dtype: str
    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, int]
    grid: tuple[int, int, int]
    num_warps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    window_bytes: int = 0
    cluster: int = 1
    bias_aligned: bool = False
    cached: bool = False


@dataclass(frozen=True, eq=False)
class TritonKernel:
    """A compiled kernel, not yet on a device. Sources that differ in data share ``compiled``."""

    source: KernelSource
    compiled: CompiledKernel

    @property
    def parts(self) -> tuple[TritonKernel, ...]:
        return (self,)

    def bind(self, device: torch.device) -> Run:
        """Load the code, upload the arrays, and return the launch: about 5 us of host time."""
        with torch.cuda.device(device):
            loaded = _load(self.compiled, device, self.source.window_bytes)
            if self.source.cached:
                prefer_cache(loaded, self.source.num_warps, device)
            arrays = [_upload(a, device) for a in self.source.arrays.values()]
        return _launcher(self, loaded, arrays)


def parts_of(kernel: Kernel) -> tuple[TritonKernel, ...]:
    """The Triton kernels that a kernel launches: none where it is a library call."""
    parts: tuple[TritonKernel, ...] = getattr(kernel, "parts", ())
    return parts


_loaded: weakref.WeakValueDictionary[tuple[int, torch.device, int], CompiledKernel] = (
    weakref.WeakValueDictionary()
)


def _load(compiled: CompiledKernel, device: torch.device, window_bytes: int) -> CompiledKernel:
    """The code on a device, once: a loaded kernel belongs to one device, so each has a copy.

    Launches keep both alive.
    """
    key = (id(compiled), device, window_bytes)
    loaded = _loaded.get(key)
    if loaded is None:
        loaded = copy.copy(compiled)
        if window_bytes:  # launched with more shared memory than Triton itself laid out
            warps, ctas, shared = loaded.packed_metadata
            loaded.metadata = loaded.metadata._replace(shared=shared + window_bytes)
            loaded.packed_metadata = (warps, ctas, shared + window_bytes)
        try:
            loaded._init_handles()
        except TritonError as e:
            raise BuildError(f"{compiled.name} does not fit on this device: {e}") from e
        compiled.n_regs, compiled.n_spills = loaded.n_regs, loaded.n_spills
        _loaded[key] = loaded
    return loaded


_uploads: weakref.WeakValueDictionary[tuple[int, torch.device], torch.Tensor] = (
    weakref.WeakValueDictionary()
)


def _upload(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on the device, once per array: launches keep both alive."""
    key = (id(array), device)
    tensor = _uploads.get(key)
    if tensor is None:
        tensor = _uploads[key] = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    return tensor


def _launcher(kernel: TritonKernel, loaded: CompiledKernel, arrays: list[torch.Tensor]) -> Run:
    source, call = kernel.source, loaded.run
    rest = (
        *(a.data_ptr() for a in arrays),
        *source.scalars.values(),
        *(None for _ in source.constants),
    )
    gx, gy, gz = source.grid
    function, metadata = loaded.function, _in_clusters(loaded, source.cluster)
    current_device, current_stream = torch.cuda.current_device, driver.active.get_current_stream
    index = arrays[0].device.index

    def run(
        X: torch.Tensor,
        Y: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        _keep_alive: tuple[Any, ...] = (kernel, loaded, arrays),
    ) -> None:
        if current_device() != index:
            with torch.cuda.device(index):
                return run(X, Y, bias, residual)
        call(
            gx, gy, gz, current_stream(index), function, metadata, None, None, None,
            X.data_ptr(), Y.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if residual is None else residual.data_ptr(),
            *rest,
        )  # fmt: skip

    return run


def _in_clusters(loaded: CompiledKernel, cluster: int) -> Any:
    """What the launch needs to know. Triton's own clusters spread every tensor over their programs,
    and its planner gives up on long kernels; here a program is a program, launched in clusters."""
    if cluster == 1:
        return loaded.packed_metadata
    backend = make_backend(loaded.metadata.target)
    return backend.pack_metadata(loaded.metadata._replace(num_ctas=cluster))


_compiled: weakref.WeakValueDictionary[tuple[Any, ...], CompiledKernel] = (
    weakref.WeakValueDictionary()
)


def forget() -> None:
    """Drop what this process compiled: the next build asks Triton's disk cache again."""
    _compiled.clear()


def compile_kernel(source: KernelSource, arch: int) -> TritonKernel:
    """Compile for compute capability ``arch`` (90 for sm_90).

    Raises ``BuildError`` with the compiler's words.
    """
    options = {"num_warps": source.num_warps, "enable_fp_fusion": True, **source.options}
    signature, constexprs, attributes = _signature(source), _constexprs(source), _attributes(source)
    key = (source.fn.__name__, arch, *(tuple(d.items()) for d in (options, signature, constexprs)))
    key += tuple(attributes)
    compiled = _compiled.get(key)
    if compiled is None:
        ast = ASTSource(source.fn, signature, constexprs, attributes)
        try:
            compiled = _compile(ast, arch, options)
        except (TritonError, RuntimeError) as e:
            reason = str(e).partition("Repro command")[0].strip()[:2000]
            raise BuildError(
                f"{source.fn.__name__} does not compile for sm_{arch}: {reason}"
            ) from None
        _compiled[key] = compiled
    return TritonKernel(source, compiled)


def _compile(ast: ASTSource, arch: int, options: dict[str, Any], again: int = 3) -> CompiledKernel:
    """Python before 3.11.8 and 3.12.1 at times cannot parse in several threads at once (CPython
    issue 106905): a ``SystemError`` that does not come twice."""
    try:
        return triton.compile(ast, target=GPUTarget("cuda", arch, 32), options=options)
    except SystemError:
        if not again:
            raise
        return _compile(ast, arch, options, again - 1)


def _constexprs(source: KernelSource) -> dict[str, Any]:
    """The constants, and None for a bias or residual that is not there."""
    absent = {
        name: None
        for name, flag in (("bias", "HAS_BIAS"), ("residual", "HAS_RESIDUAL"))
        if not source.constants[flag]
    }
    return {**source.constants, **absent}


def _signature(source: KernelSource) -> dict[str, str]:
    """A type for each parameter, in the function's order."""
    pointer = POINTER[source.x_dtype]
    types = {name: pointer for name in ("x", "y", "bias", "residual")}
    types |= {name: POINTER[str(a.dtype)] for name, a in source.arrays.items()}
    types |= {name: "i64" for name in source.scalars}
    types |= {name: "constexpr" for name in _constexprs(source)}
    expected = ["x", "y", "bias", "residual", *source.arrays, *source.scalars, *source.constants]
    assert list(source.fn.arg_names) == expected, (source.fn.arg_names, expected)
    return {name: types[name] for name in source.fn.arg_names}


def _attributes(source: KernelSource) -> dict[tuple[int, ...], Any]:
    """What Triton may assume: aligned pointers (not a bias read by the element) and scalars."""
    constants = _constexprs(source)
    aligned = {"x", "y", "residual", *source.arrays, *(["bias"] if source.bias_aligned else [])}
    aligned |= {name for name, value in source.scalars.items() if value % 16 == 0}
    return {
        (i,): ALIGNED
        for i, name in enumerate(source.fn.arg_names)
        if name in aligned and name not in constants
    }


@dataclass(frozen=True)
class Resources:
    """What one thread and one program of a compiled kernel take."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    code_bytes: int


def resources(kernel: TritonKernel) -> Resources:
    """Read off the binary with the ``cuobjdump`` that Triton ships; needs no GPU."""
    text = _disassembler("cuobjdump", "--dump-resource-usage", kernel)

    def number(name: str) -> int:
        found = re.search(rf"\b{name}:(\d+)", text)
        return int(found.group(1)) if found else 0

    code = len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+\S", sass(kernel))) * 16
    return Resources(number("REG"), number("STACK") + number("LOCAL"), number("SHARED"), code)


def sass(kernel: TritonKernel) -> str:
    """The machine code as text."""
    return _disassembler("nvdisasm", "--print-code", kernel)


@functools.lru_cache(maxsize=64)
def _disassembler(tool: str, option: str, kernel: TritonKernel) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.compiled.asm["cubin"])
        f.flush()
        done = subprocess.run([path, option, f.name], capture_output=True, text=True, check=True)
    return done.stdout


def run_interpreted(
    source: KernelSource, X: Any, Y: Any, bias: Any = None, residual: Any = None
) -> None:
    """Run a source on host tensors under ``TRITON_INTERPRET=1``: kernels without a GPU."""
    arrays = [torch.from_numpy(np.ascontiguousarray(a)) for a in source.arrays.values()]
    source.fn[source.grid](
        X, Y, bias, residual, *arrays, *source.scalars.values(), **source.constants
    )
