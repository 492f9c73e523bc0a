"""Python's numbers as tensors, without importing NumPy: the command line answers a tenth sooner."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from pygpukit.core import Device, Tensor

__all__ = ["floats", "ints", "longs"]


def ints(values: Iterable[int], device: Device) -> Tensor:
    """A vector, int32."""
    return _tensor("i", values, device)


def longs(values: Iterable[int], device: Device) -> Tensor:
    """A vector, int64."""
    return _tensor("q", values, device)


def floats(values: Iterable[float], device: Device) -> Tensor:
    """A vector, float32."""
    return _tensor("f", values, device)


def _tensor(typecode: str, values: Iterable[float], device: Device) -> Tensor:
    numbers = values if isinstance(values, array) else array(typecode, values)
    return Tensor.from_numpy(numbers, device=device)
