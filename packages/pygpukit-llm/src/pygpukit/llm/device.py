"""Which device a model runs on."""

from __future__ import annotations

import functools
import warnings

from pygpukit.core import Device, DeviceError

__all__ = ["NoGpuWarning", "choose_device"]


class NoGpuWarning(UserWarning):
    """`device="auto"` found no usable GPU."""


def choose_device(name: str) -> Device:
    """The device called `name`; "auto" is the first GPU, else the CPU with one warning.

    Raises:
        DeviceError: There is no such device, or it can't be used here.
    """
    if name != "auto":
        return Device(name)
    try:
        return Device("cuda")
    except DeviceError as error:
        _warn_once(str(error))
        return Device("cpu")


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"no GPU: running on the CPU ({reason})", NoGpuWarning, stacklevel=4)
