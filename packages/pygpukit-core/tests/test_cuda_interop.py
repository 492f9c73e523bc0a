"""Tensors on a GPU shared with PyTorch and CuPy without a copy."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import numpy as np
import pytest
from pygpukit.core import Device, MemoryPool, Tensor

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def cupy() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("cupy")


def counting(gpu: Device, *shape: int) -> Tensor:
    """A float32 tensor whose elements count up."""
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Tensor.from_numpy(array, device=gpu)


def test_pytorch_sees_our_memory(gpu: Device, torch: Any):
    tensor = counting(gpu, 5, 7)
    for view in (tensor, tensor[1:4:2, 2:]):
        shared = torch.from_dlpack(view)
        assert shared.data_ptr() == view.data_ptr
        assert (shared.device.type, shared.device.index) == ("cuda", int(gpu.name[5:]))
        np.testing.assert_array_equal(shared.cpu().numpy(), view.numpy())
    torch.from_dlpack(tensor).mul_(2)
    torch.cuda.synchronize()
    np.testing.assert_array_equal(tensor.numpy(), np.arange(35).reshape(5, 7) * 2)
    brain = Tensor.empty((3,), "bfloat16", device=gpu)
    assert torch.from_dlpack(brain).dtype == torch.bfloat16


def test_we_see_pytorchs_memory(gpu: Device, torch: Any):
    array = torch.arange(60, dtype=torch.float32, device=gpu.name).reshape(6, 10)
    for view in (array, array[::2, 3:]):
        tensor = Tensor.from_dlpack(view)
        assert tensor.data_ptr == view.data_ptr()
        assert (tensor.device, tensor.pool) == (gpu, gpu.pool)
        np.testing.assert_array_equal(tensor.numpy(), view.cpu().numpy())
    tensor = Tensor.from_dlpack(array)
    tensor.copy_(np.ones((6, 10), np.float32))
    tensor.numpy()
    assert bool((array == 1).all())
    with pytest.raises(BufferError, match="pool"):
        Tensor.from_dlpack(array, pool=MemoryPool("cpu"))
    half = torch.ones(3, dtype=torch.bfloat16, device=gpu.name)
    assert Tensor.from_dlpack(half).numpy("float32").tolist() == [1, 1, 1]


@pytest.mark.large
def test_streams_are_ordered_both_ways(gpu: Device, torch: Any):
    own = torch.cuda.Stream(gpu.name)
    matrix = torch.rand(4096, 4096, device=gpu.name)
    torch.cuda.synchronize()
    for stream in (torch.cuda.default_stream(gpu.name), own):
        with torch.cuda.stream(stream):
            product = matrix
            for _ in range(20):
                product = matrix @ product / 2048
            # What PyTorch is still computing is waited for …
            found = Tensor.from_dlpack(product).numpy()
            np.testing.assert_array_equal(found, product.cpu().numpy())
            # … and so is what we have just queued.
            tensor = Tensor.zeros((4096, 4096), "float32", device=gpu)
            tensor.copy_(Tensor.from_dlpack(product))
            assert bool((torch.from_dlpack(tensor) == product).all())
        torch.cuda.synchronize()


def test_memory_lives_as_long_as_either_uses_it(gpu: Device, torch: Any):
    pool = MemoryPool(gpu)
    tensor = Tensor.from_numpy(np.full(1000, 7, np.int32), pool=pool)
    shared = torch.from_dlpack(tensor)
    del tensor
    gc.collect()
    assert pool.stats().live_blocks == 1
    assert bool((shared == 7).all())
    del shared
    gc.collect()
    assert pool.stats().live_blocks == 0

    array = torch.full((1000,), 3, dtype=torch.int32, device=gpu.name)
    tensor = Tensor.from_dlpack(array)
    del array
    gc.collect()
    others = [torch.zeros(1000, dtype=torch.int32, device=gpu.name) for _ in range(8)]
    assert tensor.tolist() == [3] * 1000
    del tensor, others


def test_copies_and_host_memory_on_request(gpu: Device, torch: Any):
    tensor = counting(gpu, 4)
    copied = torch.from_dlpack(tensor, copy=True)
    assert copied.data_ptr() != tensor.data_ptr
    assert copied.cpu().tolist() == [0, 1, 2, 3]
    hosted = np.from_dlpack(tensor, device="cpu")
    assert hosted.tolist() == [0, 1, 2, 3]
    with pytest.raises(BufferError, match="copy"):
        np.from_dlpack(tensor, device="cpu", copy=False)
    with pytest.raises(BufferError, match="exported to"):
        tensor.__dlpack__(dl_device=(2, 77), max_version=(1, 0))
    with pytest.raises(ValueError, match="ambiguous"):
        tensor.__dlpack__(stream=0)


def test_cupy_shares_memory_both_ways(gpu: Device, cupy: Any):
    tensor = counting(gpu, 5, 7)
    for view in (tensor, tensor[1:4:2, 2:], tensor[:0]):
        np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(view)), view.numpy())
    shared = cupy.asarray(tensor)
    assert shared.data.ptr == tensor.data_ptr
    shared += 1
    cupy.cuda.get_current_stream().synchronize()
    np.testing.assert_array_equal(tensor.numpy(), np.arange(35).reshape(5, 7) + 1)

    for array in (cupy.arange(12.0).reshape(3, 4), cupy.arange(40)[::3], cupy.zeros((0, 3))):
        found = Tensor.from_cuda_array_interface(array)
        np.testing.assert_array_equal(found.numpy(), cupy.asnumpy(array))
        np.testing.assert_array_equal(Tensor.from_dlpack(array).numpy(), cupy.asnumpy(array))
    array = cupy.zeros(10, "int16")
    Tensor.from_cuda_array_interface(array).copy_(np.arange(10, dtype=np.int16)).numpy()
    assert cupy.asnumpy(array).tolist() == list(range(10))


def test_what_the_cuda_array_interface_lacks_is_said(gpu: Device):
    brain = Tensor.zeros((3,), "bfloat16", device=gpu)
    with pytest.raises(AttributeError, match="DLPack"):
        _ = brain.__cuda_array_interface__
    with pytest.raises(AttributeError, match="host"):
        _ = Tensor.zeros((3,), "float32").__cuda_array_interface__
    with pytest.raises(TypeError, match="__cuda_array_interface__"):
        Tensor.from_cuda_array_interface(np.zeros(3))

    class Array:
        def __init__(self, **changes: object) -> None:
            self.__cuda_array_interface__ = {**interface, **changes}

    interface = counting(gpu, 4).__cuda_array_interface__
    assert interface["version"] == 3
    refused = {
        "read-only": {"data": (interface["data"][0], True)},
        "elements": {"typestr": "<c8"},
        "strides": {"strides": (-4,)},
    }
    for message, changes in refused.items():
        with pytest.raises(BufferError, match=message):
            Tensor.from_cuda_array_interface(Array(**changes))
