"""Which configurations can run a problem, and the plan of one that can."""

from __future__ import annotations

from typing import Any

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.errors import ConfigError
from sparse_triton.kernels import families_of
from sparse_triton.kernels.family import Family, Plan
from sparse_triton.pattern import CSR
from sparse_triton.problem import Problem, ProblemT

MAX_GRID = 65535  # programs along the second and third axis of a CUDA grid


def why_not(problem: Problem, config: KernelConfig, device: Device) -> str | None:
    """The one validity rule, for tuner, heuristic and command line alike; None: legal."""
    families = families_of(problem)
    family = families.get(config.kernel)
    if family is None:
        return f"kernel must be one of {sorted(families)}, got {config.kernel!r}"
    if family.device_kind not in (device.kind, "any"):
        return f"{family.name} runs on {family.device_kind}, the device is {device.kind}"
    return family.why_not(problem, config, device) or _grid_why_not(problem, config, family)


def _grid_why_not(problem: Problem, config: KernelConfig, family: Family[Any]) -> str | None:
    """The slower of blocks and tiles, and the batch, are the second and third axis of a grid."""
    if family.device_kind != "cuda":
        return None
    slower = "M_blocks" if config.fastest == "columns" else "N_blocks"
    for name, value in ((slower, getattr(config, slower)), ("batch", problem.batch)):
        if value > MAX_GRID:
            return f"{name} must be at most {MAX_GRID}, got {value}; use kernel='dense' or split X"
    return None


def plan_spmm(problem: ProblemT, config: KernelConfig, csr: CSR, device: Device) -> Plan[ProblemT]:
    """The plan of an SpMM or a convolution.

    Raises ``ConfigError`` with the reason where the configuration cannot work."""
    reason = why_not(problem, config, device)
    if reason is not None:
        raise ConfigError(f"{config} cannot run {problem} on {device.name}: {reason}")
    return Plan(problem, config, csr, device, families_of(problem)[config.kernel])
