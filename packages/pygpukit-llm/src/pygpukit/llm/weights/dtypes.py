"""Which types weights and activations have."""

from __future__ import annotations

from collections.abc import Set

from pygpukit.core import Device
from pygpukit.llm.errors import DtypeError
from pygpukit.llm.weights.slots import Slot

__all__ = [
    "attention_dtype",
    "block_dtype",
    "check_activations",
    "held_dtype",
    "is_matrix",
    "is_of_attention",
    "nbytes",
]

_MATRIX_DTYPES = ("float32", "float16", "bfloat16")
"""Types that matrices are held in as stored; all others become bfloat16."""

_BLOCK_DTYPES = frozenset({"q8_0", "q4_0", "q4_1"})
"""ggml's quantised types that the CPU's operations read as stored."""

_CPU_DTYPES = ("float32", "bfloat16")
"""Types of activations on the CPU."""

_NUMBERS_AND_BYTES = {
    "float32": (1, 4),
    "float16": (1, 2),
    "bfloat16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
}
"""How many numbers each of the types that weights are held in has in how many bytes."""

_FLOAT32_MATRICES = frozenset({"layers.router"})
"""Matrices whose small errors would change what is chosen, and that are small themselves."""

_NUMBERS_ONLY = _FLOAT32_MATRICES | {"position_embedding"}
"""Matrices that are never held in blocks, which the operations that read them don't know."""

_INTO_ATTENTION = frozenset(f"layers.{name}" for name in ("qkv", "q", "q_down", "kv_down"))
"""Matrices that the attention's input is multiplied with."""

_INSIDE_ATTENTION = frozenset(f"layers.{name}" for name in ("q_up", "kv_up", "output"))
"""Matrices that are multiplied with what it makes of that."""


def nbytes(dtype: str, numbers: int) -> int:
    """Bytes of so many numbers of a type that weights are held in."""
    together, size = _NUMBERS_AND_BYTES[dtype]
    return numbers // together * size


def is_matrix(slot: Slot) -> bool:
    """Whether a weight is a matrix of the type of most others."""
    return slot.columns is not None and slot.key not in _FLOAT32_MATRICES


def is_of_attention(slot: Slot, *, normalised: bool) -> bool:
    """Whether a weight is a matrix of the type of queries, keys and values.

    All of the attention are, but those that its input is multiplied with, where that isn't
    normalised: they have the input's type.
    """
    return slot.key in _INSIDE_ATTENTION or (normalised and slot.key in _INTO_ATTENTION)


def check_activations(dtype: str | None, device: Device) -> None:
    """Refuses a type that no activations can have on a device; None passes.

    Raises:
        DtypeError: It is one.
    """
    known = _CPU_DTYPES if device.name == "cpu" else _MATRIX_DTYPES
    if dtype is not None and dtype not in known:
        raise DtypeError(f"dtype: expected {' or '.join(known)} on {device}, found {dtype!r}")


def attention_dtype(dtype: str, device: Device) -> str:
    """The type of queries, keys and values where other activations are of type `dtype`.

    Beside bfloat16 that is float16 on a GPU: as long and as fast, with an eighth of the rounding
    error where models forgive least, in front of a softmax. What the attention takes is normalised,
    or a sum of what is, and float16's range is enough for what becomes of that; the residual stream
    and what is inside the MLP can grow far beyond it. Weights lose nothing: bfloat16 has fewer bits
    of precision, and those below float16's smallest normal numbers are off by 2⁻²⁵ at most.
    """
    return "float16" if dtype == "bfloat16" and device.name != "cpu" else dtype


def block_dtype(slot: Slot, stored: Set[str]) -> str | None:
    """The quantised type that a matrix can be held in, if its rows have that one in the file."""
    if slot.columns is None or slot.key in _NUMBERS_ONLY or len(stored) != 1:
        return None
    return next(iter(stored & _BLOCK_DTYPES), None)


def held_dtype(slot: Slot, stored: Set[str]) -> str:
    """Matrices stay as stored where the operations can read that; vectors are float32."""
    if not is_matrix(slot) or "float64" in stored:
        return "float32"
    held = stored & set(_MATRIX_DTYPES)
    if not held:
        return "bfloat16"
    return min(held) if len(stored) == 1 else "float32"
