"""Tensors on a GPU: memory, host access, uploads, and the counters that prove them."""

from __future__ import annotations

import json
import struct
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import Device, MemoryPool, OutOfMemoryError, Tensor, load_safetensors

pytestmark = pytest.mark.gpu

MiB = 1 << 20
DTYPES = [
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool"),
]


@pytest.fixture
def pool(gpu: Device) -> MemoryPool:
    return MemoryPool(gpu)


def weights(path: Path, **arrays: npt.NDArray[np.float32]) -> Path:
    """A safetensors file of float32 tensors."""
    header, data = {}, b""
    for name, array in arrays.items():
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_go_there_and_back(dtype: str, pool: MemoryPool):
    rng = np.random.default_rng(0)
    for shape in [(), (1,), (3, 0), (7, 5, 3), (257, 1025)]:
        array = (rng.random(shape) * 200 - 100).astype(dtype)
        tensor = Tensor.from_numpy(array, pool=pool)
        found = tensor.numpy()
        assert (tensor.device, found.dtype, found.shape) == (pool.device, array.dtype, shape)
        np.testing.assert_array_equal(found, array)
        np.testing.assert_array_equal(np.asarray(tensor), array)


def test_views_are_of_the_same_memory(pool: MemoryPool):
    array = np.arange(120, dtype=np.int32).reshape(6, 20)
    tensor = Tensor.from_numpy(array, pool=pool)
    view = tensor[1:5:2, 3:]
    np.testing.assert_array_equal(view.numpy(), array[1:5:2, 3:])
    view.copy_(np.zeros((2, 17), np.int32))
    array[1:5:2, 3:] = 0
    np.testing.assert_array_equal(tensor.numpy(), array)
    tensor[4].copy_(tensor[5])
    assert tensor[4].tolist() == array[5].tolist()
    assert tensor[2, 4].item() == array[2, 4]
    assert not Tensor.zeros((1000,), "uint8", pool=pool).numpy().any()


def test_host_memory_is_never_shared(pool: MemoryPool):
    tensor = Tensor.zeros((3,), "float32", pool=pool)
    with pytest.raises(ValueError, match="copy=False"):
        tensor.numpy(copy=False)
    with pytest.raises(ValueError, match="copy=False"):
        np.array(tensor, copy=False)
    assert not hasattr(tensor, "__array_interface__")
    np.testing.assert_array_equal(np.from_dlpack(tensor, device="cpu"), np.zeros(3, np.float32))


def test_memory_is_the_gpus(gpu: Device, pool: MemoryPool):
    before = gpu.info().available_memory
    tensor = Tensor.empty((512, MiB), "uint8", pool=pool)
    assert before - gpu.info().available_memory >= 512 * MiB
    assert pool.stats().in_use == 512 * MiB
    del tensor
    assert (pool.stats().in_use, pool.stats().held) == (0, 512 * MiB)
    assert pool.trim() == 512 * MiB
    assert gpu.info().available_memory >= before - 64 * MiB


def test_more_than_there_is_is_an_error_with_numbers(gpu: Device, pool: MemoryPool):
    total = gpu.info().total_memory
    with pytest.raises(OutOfMemoryError, match=f"out of memory on {gpu}") as caught:
        Tensor.empty((total + 1,), "uint8", pool=pool)
    assert caught.value.needed > total >= caught.value.free > 0
    pool.quota = MiB
    with pytest.raises(OutOfMemoryError, match="quota"):
        Tensor.empty((2 * MiB,), "uint8", pool=pool)
    assert pool.stats().in_use == 0
    Tensor.zeros((1000,), "uint8", pool=pool)


def test_weights_are_uploaded_beside_the_calling_thread(
    gpu: Device, pool: MemoryPool, tmp_path: Path
):
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in {"a": (3, 5), "b": (2048, 1111), "c": (4096, 3000)}.items()
    }
    tensors = load_safetensors(weights(tmp_path / "w.safetensors", **arrays))
    before = gpu.engine.stats()
    loaded = {name: Tensor.from_safetensor(view, pool=pool) for name, view in tensors.items()}
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
        assert tensor.ready
    stats = gpu.engine.stats()
    total = sum(array.nbytes for array in arrays.values())
    assert stats.bytes_uploaded - before.bytes_uploaded == total
    assert stats.bytes_downloaded - before.bytes_downloaded == total
    assert pool.stats().in_use >= total

    halves = Tensor.from_safetensor(tensors["b"], dtype="float16", pool=pool)
    np.testing.assert_array_equal(halves.numpy(), arrays["b"].astype(np.float16))
    fused = Tensor.empty((2, 2048, 1111), "float32", pool=pool)
    events = [gpu.engine.upload(tensors["b"], fused[i]) for i in range(2)]
    assert all(event.wait(timeout=60) for event in events)
    np.testing.assert_array_equal(fused.numpy(), np.stack([arrays["b"]] * 2))


def test_threads_share_a_gpu(pool: MemoryPool):
    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            array = rng.integers(0, 255, rng.integers(1, 300_000), np.uint8)
            if not np.array_equal(Tensor.from_numpy(array, pool=pool).numpy(), array):
                failures.append(seed)

    failures: list[int] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pool.stats().live_blocks == 0


@pytest.mark.gpu
def test_fetches_wait_for_what_was_queued_before_and_nothing_after(gpu: Device):
    tensor = Tensor.zeros(20_000, "float32", device=gpu)
    fetches = []
    for step in range(40):
        tensor.copy_(np.full(20_000, step, np.float32))
        fetches.append(tensor.fetch())
    del fetches[::3]
    kept = [step for step in range(40) if step % 3]
    for step, fetch in zip(kept, fetches, strict=True):
        assert set(fetch.tolist()) == {float(step)}
