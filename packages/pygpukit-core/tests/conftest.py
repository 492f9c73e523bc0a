"""Hypothesis settings, helper modules, and what many tests start from."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from pygpukit.core import (
    Device,
    DeviceError,
    KernelDispatchController,
    MemoryPool,
    TensorMap,
    load_tensors,
)

sys.path.insert(0, str(Path(__file__).parent / "support"))

# A shell has what it starts in the background ignore Ctrl-C, and what that starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however busy the machine is.
settings.register_profile(
    "core",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("core")


@pytest.fixture
def pool() -> MemoryPool:
    """A pool that no other test uses."""
    return MemoryPool()


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first GPU that can be used; without one the test is skipped."""
    try:
        return Device("cuda")
    except DeviceError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def controller() -> KernelDispatchController:
    return Device("cpu").controller


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20251125)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TensorMap]:
    """Writes a file of that content and loads it, whatever its format."""

    def load(content: bytes, name: str = "file.safetensors", **options: bool) -> TensorMap:
        path = tmp_path / name
        path.write_bytes(content)
        return load_tensors(path, **options)

    return load
