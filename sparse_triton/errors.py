"""Every exception the library raises on purpose. Messages state law, values and remedy."""

from __future__ import annotations


class SparseTritonError(Exception):
    """Root of the tree: ``except SparseTritonError`` catches everything below."""


class InputError(SparseTritonError, ValueError):
    """An argument breaks a law of the public API."""


class ShapeError(InputError):
    """Rank or extent of an argument does not fit the others."""


class DtypeError(InputError):
    """An argument has a dtype the operation does not compute in."""


class DeviceError(InputError):
    """Arguments live on different devices, or on one the operation cannot use."""


class ActivationError(InputError):
    """The activation's name is not one of the known ones."""


class PatternError(InputError):
    """Row offsets and column indices do not describe a sparse matrix."""


class FileFormatError(InputError):
    """A file is not what its name promises."""


class ConfigError(InputError):
    """A kernel configuration cannot work for the problem on the device."""


class CaptureError(SparseTritonError, RuntimeError):
    """Something that must happen before a CUDA graph capture was asked for inside one."""


class BuildError(SparseTritonError, RuntimeError):
    """A kernel did not compile, or its program failed verification."""


class StoreError(SparseTritonError, ValueError):
    """A record or an archive of tuned configurations is not what this version writes."""
