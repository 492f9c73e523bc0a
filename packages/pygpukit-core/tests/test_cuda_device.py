"""The devices "cuda:N": what they are, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pygpukit.core import Device, DeviceError, MemoryPool, register_kernel_images


def test_a_gpu_that_cannot_be_used_says_why_and_offers_the_cpu():
    with pytest.raises(DeviceError, match='use device="cpu"'):
        Device("cuda:4000")


def test_auto_is_a_gpu_or_the_cpu():
    try:
        expected = Device("cuda")
    except DeviceError:
        expected = Device("cpu")
    assert Device("auto") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="hides the GPUs by the driver's variable")
def test_without_a_visible_gpu_auto_is_the_cpu():
    code = "from pygpukit.core import Device; print(Device('auto')); Device('cuda')"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, "-I", "-c", code]
    result = subprocess.run(run, env=hidden, capture_output=True, text=True)
    assert result.stdout == "cpu\n"
    assert "DeviceError: " in result.stderr
    assert 'device="cpu"' in result.stderr


def test_a_folder_of_kernels_that_is_not_there_is_named(tmp_path: Path):
    missing = tmp_path / "nowhere"
    with pytest.raises(DeviceError, match="nowhere"):
        register_kernel_images(missing)
    register_kernel_images(tmp_path)


@pytest.mark.gpu
def test_a_gpu_says_what_it_is(gpu: Device):
    info = gpu.info()
    assert info.name
    assert info.cores >= 1
    assert info.compute_capability >= (8, 0)
    assert info.cuda_version >= (12, 0)
    assert 0 < info.available_memory <= info.total_memory
    assert f"compute_capability={info.compute_capability}" in repr(info)
    cpu = Device("cpu").info()
    assert cpu.compute_capability is None
    assert cpu.cuda_version is None


@pytest.mark.gpu
def test_a_gpu_has_a_number_and_things_of_its_own(gpu: Device):
    assert gpu == Device(gpu.name) == Device(str(gpu))
    assert gpu.name.startswith("cuda:")
    for part in (gpu.pool, gpu.engine, gpu.controller):
        assert part.device == gpu
    assert gpu.pool != MemoryPool(gpu)
    assert gpu.pool != Device("cpu").pool
    assert isinstance(gpu.controller.images(), dict)
    assert Device("cpu").controller.images() == {}


@pytest.mark.gpu
def test_a_process_ends_well_with_tensors_alive(gpu: Device):
    code = (
        "import numpy as np; from pygpukit.core import Device, Tensor\n"
        "t = [Tensor.from_numpy(np.zeros(100_000), device='cuda') for _ in range(8)]\n"
        "del t[:4]; t[0].numpy(); print('done')"
    )
    run = [sys.executable, "-I", "-W", "error", "-c", code]
    result = subprocess.run(run, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
