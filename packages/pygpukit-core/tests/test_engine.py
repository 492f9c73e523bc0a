"""Copies between files, tensors and the host: what arrives, what is counted, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pygpukit.core import AsyncEngine, Device, LoadError, Tensor, TransferError, TransferStats
from weight_files import IQ2_XXS, entry, gguf_file, gguf_tensor, safetensors_file


@pytest.fixture
def engine() -> AsyncEngine:
    return Device("cpu").engine


@pytest.fixture
def counted(engine: AsyncEngine):
    """What the engine has counted since the last time that this was called."""
    last = engine.stats()

    def counted() -> tuple[int, int, int]:
        nonlocal last
        before, last = last, engine.stats()
        return (
            last.bytes_uploaded - before.bytes_uploaded,
            last.bytes_downloaded - before.bytes_downloaded,
            last.copies - before.copies,
        )

    return counted


def test_every_copy_is_counted_once(engine: AsyncEngine, counted, load):
    content = safetensors_file({"x": entry("F32", [2, 3], 0, 24)}, bytes(24))
    view = load(content)["x"]
    tensor = Tensor.from_numpy(np.zeros((2, 3), np.float32))
    assert counted() == (24, 0, 1)
    assert engine.upload(view, tensor).wait()
    assert counted() == (24, 0, 1)
    Tensor.from_safetensor(view, dtype="float16").wait()
    assert counted() == (12, 0, 1)
    tensor.copy_(np.ones((2, 3)))
    assert counted() == (24, 0, 1)
    np.testing.assert_array_equal(engine.download(tensor), np.ones((2, 3), np.float32))
    assert counted() == (0, 24, 1)
    tensor.copy_(Tensor.zeros((2, 3), "float32"))
    assert counted() == (0, 0, 1)
    assert tensor.numpy().tobytes() == bytes(24)
    assert counted() == (0, 24, 1)
    assert not tensor.numpy(copy=False).any()
    assert counted() == (0, 0, 0)


def test_counters_are_values(engine: AsyncEngine):
    stats = engine.stats()
    assert isinstance(stats, TransferStats)
    assert stats == engine.stats()
    Tensor.from_numpy([1.0])
    assert stats != engine.stats()
    assert "copies=" in repr(stats)
    assert engine.max_threads >= 1
    assert engine.device == Device("cpu")


def test_slices_of_one_tensor_are_filled_from_several(load, rng: np.random.Generator):
    """As fused weights are: each part is a piece of another tensor in the file."""
    parts = [rng.standard_normal((rows, 64), np.float32) for rows in (96, 32, 32)]
    header, data = {}, b""
    for name, part in zip("qkv", parts, strict=True):
        header[name] = entry("F32", part.shape, len(data), len(data) + part.nbytes)
        data += part.tobytes()
    tensors = load(safetensors_file(header, data))
    fused = Tensor.zeros((160, 64), "float32")
    for start, name in ((0, "q"), (96, "k"), (128, "v")):
        fused.narrow(0, start, tensors[name].shape[0]).copy_(tensors[name])
    np.testing.assert_array_equal(fused.numpy(), np.concatenate(parts))


def test_a_large_upload_in_many_pieces(load, rng: np.random.Generator):
    """More than one piece for each thread, converted and transposed on the way."""
    values = rng.standard_normal((3001, 1024), np.float32)
    content = safetensors_file(
        {"x": entry("F32", values.shape, 0, values.nbytes)}, values.tobytes()
    )
    view = load(content)["x"]
    tensor = Tensor.from_safetensor(view)
    half = Tensor.from_safetensor(view.transpose(), dtype="float16")
    event = Device("cpu").engine.upload(view, Tensor.zeros(view.shape, "float64"))
    assert event.wait(timeout=60)
    assert event.ready
    assert repr(event) == "<Event done>"
    np.testing.assert_array_equal(tensor.numpy(), values)
    np.testing.assert_array_equal(half.numpy(), values.T.astype(np.float16))
    assert tensor.ready


def test_waiting_has_limits(engine: AsyncEngine, load):
    view = load(safetensors_file({"x": entry("U8", [1], 0, 1)}, b"7"))["x"]
    event = engine.upload(view, Tensor.zeros(1, "uint8"))
    for timeout in (None, float("inf"), 1e300, 5):
        assert event.wait(timeout)
    # It is over, so that no time at all is enough.
    assert event.wait(0)
    assert event.wait(-1)
    with pytest.raises(ValueError, match="timeout is not a number"):
        event.wait(float("nan"))


def test_what_cannot_be_uploaded_is_refused_at_once(engine: AsyncEngine, counted, load):
    view = load(safetensors_file({"x": entry("F32", [2, 3], 0, 24)}, bytes(24)))["x"]
    with pytest.raises(
        ValueError,
        match=r'expected a float32 tensor of shape \[3, 2\] .* tensor "x" of shape \[2, 3\]',
    ):
        engine.upload(view, Tensor.zeros((3, 2), "float32"))
    with pytest.raises(TransferError, match="elements have gaps between them"):
        engine.upload(view, Tensor.zeros((2, 4), "float32")[:, :3])
    with pytest.raises(LoadError, match='tensor "x": no conversion from float32 to int32'):
        engine.upload(view, Tensor.zeros((2, 3), "int32"))
    opaque = load(gguf_file([gguf_tensor("o", [256], IQ2_XXS, 0)], bytes(66)))["o"]
    with pytest.raises(LoadError, match="elements of type iq2_xxs can't be read"):
        engine.upload(opaque, Tensor.zeros(256, "float32"))
    with pytest.raises(TypeError):
        engine.upload(np.zeros(3), Tensor.zeros(3, "float64"))
    assert counted() == (0, 0, 0)
