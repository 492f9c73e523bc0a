"""GPT-2's byte alphabet: a visible character for every byte, so that any bytes are a string.

Printable Latin-1 characters stand for their own code; the other bytes take U+0100 and up in order.
"""

from __future__ import annotations

import codecs
from functools import lru_cache

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def _alphabet() -> str:
    others = iter(range(0x100, 0x200))
    return "".join(chr(b if b in _PRINTABLE else next(others)) for b in range(256))


ALPHABET = _alphabet()
"""The character of each byte."""

_TO_BYTES = {ord(char): byte for byte, char in enumerate(ALPHABET)}

_FROM_LATIN1 = dict(enumerate(ALPHABET))


def to_alphabet(data: bytes) -> str:
    """Spell bytes in the alphabet."""
    return data.decode("latin-1").translate(_FROM_LATIN1)


def to_bytes(token: str) -> bytes:
    """The bytes that a token spells.

    A token with any character outside of the alphabet stands for itself, as in the reference.
    """
    try:
        return codecs.charmap_encode(token, "strict", _TO_BYTES)[0]
    except UnicodeEncodeError:
        return token.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=1 << 16)
def spelled(char: str) -> str:
    """One character in the alphabet."""
    return to_alphabet(char.encode())
