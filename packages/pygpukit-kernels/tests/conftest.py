"""Where the tensors of a test live, and how they get there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import Device, DeviceError, Tensor

sys.path.insert(0, str(Path(__file__).parent / "support"))

Array = npt.NDArray[Any]
Put = Callable[..., Tensor]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    try:
        return Device(request.param)
    except DeviceError as error:
        pytest.skip(f"no {request.param} device: {error}")


@pytest.fixture
def put(device: Device) -> Put:
    """Copies an array to the device, as a dtype if one is given."""

    def put(array: Array, dtype: str | None = None) -> Tensor:
        return Tensor.from_numpy(np.asarray(array), dtype, device=device)

    return put


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., Array]:
    """Standard normal float32 numbers that a dtype holds exactly."""

    def normal(*shape: int, dtype: str = "float32") -> Array:
        array = rng.standard_normal(shape, np.float32)
        if dtype == "float16":
            return array.astype(np.float16).astype(np.float32)
        if dtype == "bfloat16":
            return (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return array

    return normal
