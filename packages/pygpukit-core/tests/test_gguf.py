"""GGUF files, as the gguf package of llama.cpp writes and dequantises them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import LoadError, Tensor, load_gguf, load_tensors
from weight_files import F32, IQ2_XXS, Q4_0, gguf_entry, gguf_file, gguf_tensor

gguf = pytest.importorskip("gguf", reason="the oracle: gguf")

BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"]
SUPER_BLOCKS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
TYPES = ["F32", "F16", "BF16", *BLOCKS, *SUPER_BLOCKS]
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Half-precision scales at the ends: NaN, both infinities, the largest, a denormal, minus zero.
SCALES = np.array([0x7E01, 0x7C00, 0xFC00, 0x7BFF, 0x0001, 0x8000], "<u2")


def random_blocks(rng: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    """Stored bytes of any content, the scales of the first blocks being extreme."""
    elements, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    stored = rng.integers(0, 256, (rows, columns // elements * nbytes), np.uint8)
    if elements > 1:
        blocks = stored.reshape(-1, nbytes)
        blocks[: len(SCALES), :2] = SCALES.view(np.uint8).reshape(-1, 2)
        if kind == "Q4_1":
            blocks[1 : len(SCALES) + 1, 2:4] = SCALES.view(np.uint8).reshape(-1, 2)
    return stored


def write(path: Path, tensors: dict[str, tuple[str, np.ndarray]], **metadata: object) -> Path:
    """A file written by the gguf package; each tensor is a type and its stored bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add = writer.add_array if isinstance(value, list) else writer.add_string
        add(key, value)
    for name, (kind, stored) in tensors.items():
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit, but for which of the many NaNs a NaN is."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("kind", TYPES)
def test_dequantises_bit_for_bit(tmp_path: Path, rng: np.random.Generator, kind: str):
    rows, columns = 37, 256 if kind in SUPER_BLOCKS else 224
    stored = random_blocks(rng, kind, rows, columns)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[kind])
    view = load_gguf(write(tmp_path / "model.gguf", {"x": (kind, stored)}))["x"]
    assert (view.dtype, view.shape) == (NAMES.get(kind, kind.lower()), (rows, columns))
    assert view.nbytes == stored.nbytes
    np.testing.assert_array_equal(view.raw(), stored.reshape(-1))
    assert_same_bits(view.cast("float32").numpy(), expected)
    assert_same_bits(view[5:9].cast("float32").numpy(), expected[5:9])
    # The same through a tensor, which keeps the stored type, and through one that doesn't.
    assert_same_bits(Tensor.from_safetensor(view).numpy("float32"), expected)
    assert_same_bits(Tensor.from_safetensor(view, dtype="float32").numpy(), expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_what_the_package_quantises_comes_back(tmp_path: Path, rng, kind: str):
    values = rng.standard_normal((3, 5, 64), np.float32)
    quantised = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    view = load_gguf(write(tmp_path / "model.gguf", {"x": (kind, quantised)}))["x"]
    assert view.shape == values.shape
    expected = gguf.dequantize(quantised, gguf.GGMLQuantizationType[kind])
    assert_same_bits(view.cast(np.float32).numpy(), expected)
    half = view.cast(np.float16).numpy()
    np.testing.assert_array_equal(half, expected.astype(np.float16))


@pytest.mark.parametrize("mmap", [True, False])
def test_tensors_and_metadata_of_every_type(tmp_path: Path, rng, mmap: bool):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_uint8("uint8", 200)
    writer.add_int8("int8", -5)
    writer.add_uint64("uint64", 2**64 - 1)
    writer.add_int64("int64", -(2**63))
    writer.add_float32("float32", 0.5)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "né\N{SNOWMAN}")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("tokens", ["", "a", "\u2581b"])
    scalars = {"i8": np.int8, "i32": np.int32, "i64": np.int64, "f64": np.float64}
    tensors = {name: np.arange(-3, 9).reshape(3, 4).astype(t) for name, t in scalars.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = load_gguf(tmp_path / "model.gguf", mmap=mmap)
    assert dict(loaded.metadata) == {
        "general.architecture": "llama",
        "uint8": 200,
        "int8": -5,
        "uint64": 2**64 - 1,
        "int64": -(2**63),
        "float32": 0.5,
        "float64": 0.1,
        "bool": True,
        "string": "né\N{SNOWMAN}",
        "numbers": [1, 2, 3],
        "tokens": ["", "a", "\u2581b"],
    }
    assert next(iter(loaded.metadata)) == "general.architecture"
    assert type(loaded.metadata["bool"]) is bool
    for name, expected in tensors.items():
        np.testing.assert_array_equal(loaded[name].numpy(), expected)
        assert loaded[name].numpy().dtype == expected.dtype


def test_a_file_is_known_by_its_content(tmp_path: Path):
    (tmp_path / "blob").write_bytes(gguf_file([gguf_tensor("x", [32], Q4_0, 0)], bytes(18)))
    assert list(load_tensors(tmp_path / "blob")) == ["x"]


def test_types_that_cannot_be_read_are_listed_and_their_bytes_shared(load):
    data = bytes(range(66)) * 2
    content = gguf_file([gguf_tensor("blk.0.ffn", [256, 2], IQ2_XXS, 0)], data)
    view = load(content, "model.gguf")["blk.0.ffn"]
    assert (view.dtype, view.shape, view.nbytes) == ("iq2_xxs", (2, 256), 132)
    assert view.raw().tobytes() == data
    for read in (view.numpy, lambda: view.cast("float32"), lambda: Tensor.from_safetensor(view)):
        with pytest.raises(
            LoadError, match=r'model\.gguf: tensor "blk\.0\.ffn": .* iq2_xxs can\'t be'
        ):
            read()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_are_no_array_and_never_cut(tmp_path: Path, rng, kind: str):
    stored = random_blocks(rng, kind, 4, 64)
    view = load_gguf(write(tmp_path / "model.gguf", {"x": (kind, stored)}))["x"]
    tensor = Tensor.from_safetensor(view)
    for read in (view.numpy, tensor.numpy, lambda: np.asarray(view), lambda: np.asarray(tensor)):
        with pytest.raises(
            TypeError, match=f"no {kind.lower()}: its elements are packed in blocks"
        ):
            read()
    for export in (view, tensor):
        with pytest.raises(BufferError, match=f"DLPack has no {kind.lower()}"):
            np.from_dlpack(export)
    with pytest.raises(TypeError, match="not numbers by themselves"):
        tensor.tolist()
    with pytest.raises(LoadError, match="whole blocks of 32"):
        view.reshape(8, 32).reshape(16, 16)
    with pytest.raises(LoadError, match="cast to a floating-point type first"):
        view.transpose()
    with pytest.raises(ValueError, match="packs 32 consecutive elements"):
        tensor.narrow(1, 16, 32)
    dequantised = view.cast("float32").numpy()
    assert_same_bits(tensor[1:3].numpy("float32"), dequantised[1:3])
    assert_same_bits(tensor.narrow(1, 32, 32).numpy("float32"), dequantised[:, 32:].copy())
    assert_same_bits(view.cast("float32").transpose().numpy(), dequantised.T.copy())


def part(number: int, count: int, tensors: Sequence[str], total: int = 3) -> bytes:
    """A part of a split model, with tensors of one number each, that of the part."""
    entries = [
        gguf_entry("split.no", 2, struct.pack("<H", number)),
        gguf_entry("split.count", 2, struct.pack("<H", count)),
        gguf_entry("split.tensors.count", 5, struct.pack("<i", total)),
        gguf_entry("seen.in", 4, struct.pack("<I", number)),
    ]
    described = [gguf_tensor(name, [1], F32, 32 * i) for i, name in enumerate(tensors)]
    return gguf_file(described, (struct.pack("<f", number) + bytes(28)) * len(tensors), entries)


def split_model(folder: Path, *parts: bytes) -> list[Path]:
    files = [folder / f"m-{i:05}-of-{len(parts):05}.gguf" for i in range(1, len(parts) + 1)]
    for file, content in zip(files, parts, strict=True):
        file.write_bytes(content)
    return files


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_a_split_model_is_one(tmp_path: Path, opened: int):
    files = split_model(tmp_path, part(0, 3, []), part(1, 3, ["a", "b"]), part(2, 3, ["c"]))
    tensors = load_gguf(files[opened])
    assert {name: tensors[name].numpy().item() for name in tensors} == {"a": 1, "b": 1, "c": 2}
    assert tensors.metadata["seen.in"] == 0


def test_a_split_model_that_is_not_whole(tmp_path: Path):
    files = split_model(tmp_path, part(0, 3, ["a"]), part(2, 3, ["b"]), part(2, 3, ["c"]))
    with pytest.raises(LoadError, match=r"m-00002.*expected part 1 of 3 by its name, found"):
        load_gguf(files[0])
    files[1].write_bytes(part(1, 3, ["a"]))
    with pytest.raises(LoadError, match=r'm-00002.*"a"'):
        load_gguf(files[0])
    files[1].write_bytes(part(1, 3, []))
    with pytest.raises(LoadError, match=r"m-00001.*the parts have 2 tensors, not 3"):
        load_gguf(files[0])
    files[1].unlink()
    with pytest.raises(LoadError, match=r"m-00001.*missing shards: m-00002-of-00003\.gguf"):
        load_gguf(files[0])
