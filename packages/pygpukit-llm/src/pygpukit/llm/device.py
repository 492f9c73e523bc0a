"""Which device a model runs on."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

from pygpukit.core import Device, DeviceError

__all__ = [
    "Choice",
    "NoGpuWarning",
    "captured_tokens",
    "choose_device",
    "served_step_tokens",
    "step_tokens",
    "warn_no_gpu",
]


class NoGpuWarning(UserWarning):
    """`device="auto"` found no usable GPU."""


class Choice(NamedTuple):
    """A device, and why it isn't a GPU where "auto" looked for one in vain."""

    device: Device
    no_gpu: str | None = None


def choose_device(name: str) -> Choice:
    """The device called `name`; "auto" is the first GPU, else the CPU.

    Raises:
        DeviceError: There is no such device, or it can't be used here.
    """
    if name != "auto":
        return Choice(Device(name))
    try:
        return Choice(Device("cuda"))
    except DeviceError as error:
        return Choice(Device("cpu"), str(error))


def step_tokens(device: Device) -> int:
    """Tokens that go through the layers at once: they fill a CPU's caches, or a whole GPU."""
    return 512 if device.name == "cpu" else 4096


def served_step_tokens(device: Device) -> int:
    """The same for a server, where a prompt is not to hold up the answers that are under way."""
    return 128 if device.name == "cpu" else 256


def captured_tokens(device: Device) -> int:
    """Of a step of prompts that is captured: more take a GPU longer than the host that launches."""
    return 0 if device.name == "cpu" else 512


@functools.cache
def warn_no_gpu(reason: str) -> None:
    """Warns once that there is no GPU, on behalf of the caller's caller."""
    warnings.warn(f"no GPU: running on the CPU ({reason})", NoGpuWarning, stacklevel=3)
