"""Facts about devices: asked lazily, spelled for folders and tables."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sparse_triton import device
from sparse_triton.device import Device
from sparse_triton.errors import CaptureError


def test_cpu() -> None:
    facts = Device.of(torch.device("cpu"))
    assert (facts.kind, facts.arch) == ("cpu", 0)
    assert facts.cores == torch.get_num_threads()
    assert facts.name.endswith(f"x{facts.cores}")
    assert Device.of(torch.device("cpu")) is facts


def test_slug_is_a_folder_name() -> None:
    name = "NVIDIA H100 80GB HBM3 (SXM)/x"
    assert Device("cuda", name, 90, 132).slug == "nvidia-h100-80gb-hbm3-sxm-x"
    assert Device.virtual_cuda(90).slug == "sm-90"


@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
def test_virtual_gpus(arch: int) -> None:
    facts = Device.virtual_cuda(arch)
    assert (facts.kind, facts.arch) == ("cuda", arch)
    assert facts.registers == 65536


def test_environment_names_what_a_measurement_depends_on() -> None:
    env = device.environment(Device.virtual_cuda(90))
    for name in ("device", "sparse_triton", "torch", "triton", "numpy", "python", "driver", "cuda"):
        assert env[name]
    cpu = device.environment(Device.of(torch.device("cpu")))
    assert "driver" not in cpu
    assert cpu["torch"] == torch.__version__


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    device.triton_version.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    try:
        assert device.triton_version() == "none"
    finally:
        device.triton_version.cache_clear()


def test_import_touches_no_gpu_and_no_compiler() -> None:
    """And nothing that only building a kernel needs."""
    code = (
        "import sys, torch, sparse_triton\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'sparse_triton.build' not in sys.modules\n"
        "assert 'optuna' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_refuse_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    device.refuse_capture(torch.device("cpu"), "anything")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    device.refuse_capture(torch.device("cpu"), "anything")
    with pytest.raises(CaptureError, match=r"^this, and nothing may be .* run the same call once"):
        device.refuse_capture(torch.device("cuda"), "this")
