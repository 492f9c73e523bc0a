"""Weight files byte by byte, so that they can be wrong in any way."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

# ggml's numbers of types (enum ggml_type), and GGUF's of metadata values.
F32, F16, Q4_0, Q4_1, Q8_0, IQ2_XXS, BF16 = 0, 1, 2, 3, 8, 16, 30
UINT32, STRING, ARRAY = 4, 8, 9
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"


def entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    """A tensor of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    """A safetensors file; a header that isn't given as text is padded, as writers do it."""
    encoded = (header if isinstance(header, str) else json.dumps(header)).encode()
    if not isinstance(header, str):
        encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data


def byte_tensors(**tensors: bytes) -> bytes:
    """A safetensors file of one-dimensional uint8 tensors."""
    header, data = {}, b""
    for name, content in tensors.items():
        header[name] = entry("U8", [len(content)], len(data), len(data) + len(content))
        data += content
    return safetensors_file(header, data)


def gguf_string(text: str) -> bytes:
    """A length and as many bytes of UTF-8."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_entry(key: str, kind: int, value: bytes) -> bytes:
    """A metadata entry whose value is encoded already."""
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_tensor(name: str, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor's description; of `dims` the first varies fastest."""
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return gguf_string(name) + sizes + struct.pack("<IQ", kind, offset)


def gguf_file(
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    entries: Sequence[bytes] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file with the default alignment; `counts` are those that the header announces."""
    counts = counts or (len(tensors), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*entries, *tensors])
    return header + bytes(-len(header) % 32) + data
