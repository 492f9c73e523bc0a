"""GPT-2's byte alphabet: a visible character for every byte, so that any bytes are a string.

Printable Latin-1 characters stand for their own code; the other bytes take U+0100 and up in order.
"""

from __future__ import annotations

import codecs
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def _alphabet() -> str:
    others = iter(range(0x100, 0x200))
    return "".join(chr(b if b in _PRINTABLE else next(others)) for b in range(256))


ALPHABET = _alphabet()
"""The character of each byte."""

# The codec has a fast form of such a map only for tables that begin with the code point 0.
_TO_BYTES = codecs.charmap_build("\0" + ALPHABET[1:])


def to_alphabet(data: bytes) -> str:
    """Spell bytes in the alphabet."""
    return codecs.charmap_decode(data, "strict", ALPHABET)[0]


def each_to_alphabet(texts: Sequence[str]) -> list[str]:
    """Spell the bytes of each text, all of them at once where none has a NUL."""
    joined = "\0".join(texts)
    if joined.count("\0") != len(texts) - 1:
        return [to_alphabet(text.encode()) for text in texts]
    return to_alphabet(joined.encode()).split(ALPHABET[0])


def to_bytes(token: str) -> bytes:
    """The bytes that a token spells.

    A token with any character outside of the alphabet stands for itself, as in the reference.
    """
    data = spelled_bytes(token)
    return token.encode("utf-8", "surrogatepass") if data is None else data


def spelled_bytes(text: str) -> bytes | None:
    """The bytes that a text spells; None where a character isn't of the alphabet."""
    if "\0" in text:
        return None
    try:
        return codecs.charmap_encode(text.replace(ALPHABET[0], "\0"), "strict", _TO_BYTES)[0]
    except UnicodeEncodeError:
        return None


@lru_cache(maxsize=1 << 16)
def spelled(char: str) -> str:
    """One character in the alphabet."""
    return to_alphabet(char.encode())
