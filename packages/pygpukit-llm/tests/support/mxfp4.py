"""MXFP4 as OCP's Microscaling Formats 1.0 defines it, and as files have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCK = 32
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def encode(array: Array) -> tuple[Array, Array]:
    """The nearest codes, and an exponent for each 32 elements of a row."""
    blocks = array.reshape(*array.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True).clip(2.0**-100)
    # The largest of a block comes to lie from 3.0, exclusive, to 6.0.
    exponents = np.ceil(np.log2(largest / 6)).astype(np.int32)
    scaled = np.ldexp(blocks, -exponents)
    codes = np.abs(np.abs(scaled)[..., None] - MAGNITUDES).argmin(-1)
    codes = codes | (np.signbit(scaled) & (codes > 0)) << 3
    return codes.astype(np.uint8), (exponents[..., 0] + 127).astype(np.uint8)


def decode(codes: Array, exponents: Array) -> Array:
    """What they stand for."""
    values = np.where(codes & 8, -1, 1) * MAGNITUDES[codes & 7]
    blocks = np.ldexp(values, exponents[..., None].astype(np.int32) - 127)
    return blocks.reshape(*codes.shape[:-2], -1).astype(np.float32)


def pairs(codes: Array) -> Array:
    """Two neighbours in each byte, the first in the low bits: as gpt-oss is published."""
    return np.ascontiguousarray(codes[..., ::2] | codes[..., 1::2] << 4)


def ggml(codes: Array, exponents: Array) -> Array:
    """The blocks of GGUF files: the exponent, then 16 bytes with the halves' elements."""
    halves = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate([exponents[..., None], halves], axis=-1)
