"""Weight files that are wrong: refused, with the file and the tensor named."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygpukit.core import LoadError, MissingFileError, load_tensors
from weight_files import (
    ARRAY,
    F32,
    LFS_POINTER,
    Q4_0,
    STRING,
    UINT32,
    entry,
    gguf_entry,
    gguf_file,
    gguf_tensor,
    safetensors_file,
)

HUGE = 2**64 - 1


def one(tensor: dict[str, object] | str, data: bytes = b"") -> bytes:
    """A file whose only tensor is called x."""
    text = tensor if isinstance(tensor, str) else json.dumps(tensor)
    return safetensors_file('{"x":' + text + "}", data)


SAFETENSORS = {
    "empty": (b"", "truncated: the header ends at byte 8, the file has 0 bytes"),
    "half a length": (b"\x08\0\0", "truncated: the header"),
    "LFS pointer": (LFS_POINTER, "this is a Git LFS pointer, not the weights; run `git lfs pull`"),
    "header past the end": (struct.pack("<Q", 99) + b"{}", "header ends at byte 107.* 10 bytes"),
    "bogus header length": (
        struct.pack("<Q", 0x7B00_0000_0000_007B) + b"{}",
        "the header is 8863084066665136251 bytes long, the limit is 100000000",
    ),
    "header of 126 MB": (
        struct.pack("<Q", 126_000_000) + b"{}",
        "the header is 126000000 bytes long, the limit is 100000000",
    ),
    "no JSON": (safetensors_file("{,}"), "bad header: invalid JSON"),
    "no object": (safetensors_file("[]"), "bad header: invalid JSON"),
    "no UTF-8": (struct.pack("<Q", 4) + b'{"\xff"', "bad header: not UTF-8 from byte 10 on"),
    "metadata that isn't text": (safetensors_file('{"__metadata__":{"a":1}}'), "bad header"),
    "no shape": (one('{"dtype":"U8","data_offsets":[0,1]}', b"1"), 'tensor "x": missing field'),
    "negative length": (one(entry("U8", [-1], 0, 1), b"1"), 'bad header: tensor "x": '),
    "unknown dtype": (one(entry("U128", [1], 0, 16), bytes(16)), '"x" has the unknown type U128'),
    "duplicate name": (
        safetensors_file(
            '{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            '"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
        '"x" appears twice in the header',
    ),
    "shape that overflows": (
        one(entry("F32", [2**62, 2**62], 0, 4), bytes(4)),
        r'tensor "x": the size of shape \[4611686018427387904, 4611686018427387904\] overflows',
    ),
    "offsets shorter than the shape": (
        one(entry("F32", [2, 3], 0, 20), bytes(20)),
        r'tensor "x": F32 of shape \[2, 3\] takes 24 bytes, its offsets span 20',
    ),
    "reversed offsets": (one(entry("U8", [1], 1, 0), b"1"), r"\[1, 0\] run backwards"),
    "truncated": (
        one(entry("F32", [2], 0, 8), bytes(7)),
        r'truncated: tensor "x" ends at byte \d+, the file has \d+ bytes',
    ),
    "offsets far past the end": (
        one(entry("U8", [2**40], 0, 2**40), b"1"),
        'truncated: tensor "x" ends at byte',
    ),
    "overlap": (
        safetensors_file({"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 3, 7)}, bytes(7)),
        'tensor "y" overlaps "x": it starts at data offset 3, the other ends at 4',
    ),
    "the same bytes twice": (
        safetensors_file({"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 0, 4)}, bytes(4)),
        'tensor "y" overlaps "x"',
    ),
    "hole": (
        safetensors_file({"x": entry("U8", [1], 0, 1), "y": entry("U8", [1], 2, 3)}, bytes(3)),
        'a hole before tensor "y": data offsets 1 to 2 belong to no tensor',
    ),
    "trailing bytes": (one(entry("U8", [1], 0, 1), b"123"), "2 trailing bytes"),
}

GGUF = {
    "empty": (b"", "truncated: the magic number"),
    "LFS pointer": (LFS_POINTER, "Git LFS pointer"),
    "another format": (b"GGML" + bytes(40), "not a GGUF file"),
    "version 1": (
        gguf_file(version=1),
        "unsupported GGUF file: version 1; convert the model again",
    ),
    "version 9": (gguf_file(version=9), "version 9, versions 2 and 3 are known"),
    "big-endian": (gguf_file(version=3 << 24), "it is big-endian"),
    "too many tensors": (gguf_file(counts=(HUGE, 0)), f"{HUGE} tensors announced"),
    "too many entries": (gguf_file(counts=(0, 2**60)), "metadata entries announced"),
    "string past the end": (
        gguf_file(entries=[gguf_entry("name", STRING, struct.pack("<Q", HUGE))]),
        "truncated: name",
    ),
    "array past the end": (
        gguf_file(entries=[gguf_entry("ids", ARRAY, struct.pack("<IQ", UINT32, 2**61))]),
        "ids announced, the rest of the file holds",
    ),
    "unknown value type": (gguf_file(entries=[gguf_entry("k", 13, bytes(8))]), '"k".* type 13'),
    "duplicate key": (
        gguf_file(entries=[gguf_entry("k", UINT32, bytes(4))] * 2),
        '"k" appears twice',
    ),
    "duplicate tensor": (
        gguf_file([gguf_tensor("x", [1], F32, 0), gguf_tensor("x", [1], F32, 32)], bytes(64)),
        '"x" appears twice',
    ),
    "unknown type": (gguf_file([gguf_tensor("x", [1], 99, 0)], bytes(4)), "unknown type number 99"),
    "five dimensions": (gguf_file([gguf_tensor("x", [1] * 5, F32, 0)], bytes(4)), "5 dimensions"),
    "shape that overflows": (
        gguf_file([gguf_tensor("x", [2**32, 2**32], F32, 0)]),
        'tensor "x": the size of shape .* overflows',
    ),
    "half a block": (
        gguf_file([gguf_tensor("x", [48, 2], Q4_0, 0)], bytes(54)),
        r'tensor "x": shape \[2, 48\] isn\'t possible for q4_0: rows must be whole blocks of 32',
    ),
    "truncated": (
        gguf_file([gguf_tensor("x", [16], F32, 0)], bytes(63)),
        'truncated: tensor "x" ends at byte',
    ),
    "offset past the end": (
        gguf_file([gguf_tensor("x", [1], F32, HUGE - 31)], bytes(4)),
        'truncated: tensor "x"',
    ),
    "misaligned": (
        gguf_file([gguf_tensor("x", [1], F32, 4)], bytes(8)),
        'tensor "x": data offset 4 isn\'t a multiple of 32',
    ),
    "overlap": (
        gguf_file([gguf_tensor("x", [16], F32, 0), gguf_tensor("y", [1], F32, 32)], bytes(64)),
        'tensor "y" overlaps "x"',
    ),
    "part of a split model": (
        gguf_file(entries=[gguf_entry("split.count", 2, struct.pack("<H", 3))]),
        'one of 3 parts, and others are found by a name that ends with "-00001-of-00003',
    ),
}


@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "read"])
@pytest.mark.parametrize(("content", "message"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors(load, content: bytes, message: str, mmap: bool):
    with pytest.raises(LoadError, match=rf"file\.safetensors: .*{message}"):
        load(content, mmap=mmap)


@pytest.mark.parametrize(("content", "message"), GGUF.values(), ids=GGUF)
def test_gguf(load, content: bytes, message: str):
    with pytest.raises(LoadError, match=rf"file\.gguf: .*{message}"):
        load(content, "file.gguf")


def test_other_formats_are_told_from_damaged_ones(load, tmp_path):
    with pytest.raises(LoadError, match=r"neither a safetensors nor a GGUF file .*PK\\x03\\x04"):
        load(b"PK\x03\x04 a pickle", "pytorch_model.bin")
    with pytest.raises(MissingFileError) as caught:
        load_tensors(tmp_path / "gone.gguf")
    assert str(caught.value) == f"{tmp_path / 'gone.gguf'}: no such file or folder"
    with pytest.raises(TypeError):
        load_tensors(3)


def test_tensors_without_elements_are_fine(load):
    header = {
        "first": entry("F32", [0, 7], 0, 0),
        "x": entry("F32", [1], 0, 4),
        "last": entry("F32", [3, 0], 4, 4),
        "scalar": entry("F32", [], 4, 8),
    }
    tensors = load(safetensors_file(header, np.float32([1, 2]).tobytes()))
    assert [view.numpy().shape for view in tensors.values()] == [(0, 7), (1,), (3, 0), ()]
    assert tensors["last"].cast("bfloat16").reshape(0, 5).nbytes == 0
    assert tensors["last"].transpose().cast("float64").numpy().shape == (0, 3)
    assert tensors["scalar"].numpy() == 2
    assert len(load(safetensors_file({}))) == 0


GOOD = [
    safetensors_file({"x": entry("F32", [2], 0, 8), "y": entry("U8", [3], 8, 11)}, bytes(11)),
    gguf_file(
        [gguf_tensor("x", [32], Q4_0, 0)],
        bytes(18),
        [gguf_entry("general.alignment", UINT32, struct.pack("<I", 32))],
    ),
]


@given(
    good=st.sampled_from(GOOD),
    edits=st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=9)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 300),
)
def test_damage_is_refused_or_harmless(load, good: bytes, edits, cut):
    """Whatever is overwritten or cut off: an error of ours, or tensors that can be read."""
    damaged = bytearray(good)
    for position, content in edits:
        damaged[position % len(good) : position % len(good) + len(content)] = content
    tensors, refusal = None, ""
    try:
        tensors = load(bytes(damaged[:cut]))
    except LoadError as error:
        refusal = str(error)
    if tensors is None:
        assert "file.safetensors: " in refusal
        return
    for view in tensors.values():
        assert len(view.raw()) == view.byte_range[1] - view.byte_range[0]
    assert list(dict(tensors.metadata)) == list(tensors.metadata)
