"""The decoder of byte-level tokens."""

from __future__ import annotations

import codecs

from pygpukit.tokenizer.byte_alphabet import spelled_bytes, to_bytes
from pygpukit.tokenizer.decoders.base import MAX_REMEMBERED_LENGTH, Decoder, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Series

    from pygpukit.tokenizer.spec import Spec

_MAX_REMEMBERED = 1 << 18


class ByteLevel(Decoder):
    """The bytes that tokens spell in the byte alphabet, as UTF-8; what isn't becomes U+FFFD."""

    __slots__ = ()

    def fuses(self) -> bool:
        return True

    @classmethod
    def from_spec(cls, spec: Spec) -> ByteLevel:
        for name in ("add_prefix_space", "trim_offsets"):
            spec.get(name, bool)
        spec.get("use_regex", bool, True)
        return cls()

    def decode(self, tokens: Series[str]) -> str:
        data = spelled_bytes("".join(tokens))
        if data is None:
            data = b"".join(map(_BYTES.__getitem__, tokens))
        return data.decode("utf-8", "replace")

    def chain(self, tokens: list[str]) -> list[str]:
        return [self.decode(tokens)]

    def step(self) -> Step:
        return _ByteLevelStep()


class _BytesOfTokens(dict[str, bytes]):
    """Remembers what tokens spell; there are only as many as vocabularies have."""

    def __missing__(self, token: str) -> bytes:
        data = to_bytes(token)
        if len(self) < _MAX_REMEMBERED and len(token) <= MAX_REMEMBERED_LENGTH:
            self[token] = data
        return data


_BYTES = _BytesOfTokens()


class _ByteLevelStep(Step):
    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> Iterable[str]:
        return (self._decoder.decode(_BYTES[token]),)

    def flush(self) -> Iterable[str]:
        return (self._decoder.decode(b"", final=True),)
