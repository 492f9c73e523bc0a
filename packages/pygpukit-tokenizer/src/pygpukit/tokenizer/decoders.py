"""Decoders: turn tokens back into text, all at once or as they come.

Every decoder is a :class:`Step` from token texts to texts, so that decoding a stream is the same
computation as decoding a list, one token at a time.
"""

from __future__ import annotations

import codecs

from pygpukit.tokenizer.byte_alphabet import to_bytes
from pygpukit.tokenizer.spec import Component, build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence as Series

    from pygpukit.tokenizer.spec import Spec

_MAX_REMEMBERED = 1 << 18


class Step:
    """Decoding under way: tokens go in, what has become certain comes out."""

    __slots__ = ()

    def push(self, token: str) -> str:
        """The text that ``token`` makes certain, "" while a character is still incomplete."""
        raise NotImplementedError

    def flush(self) -> str:
        """What is left at the end; the step starts over."""
        return ""


class Decoder(Component):
    """Base of all decoders."""

    __slots__ = ()

    def decode(self, tokens: Series[str]) -> str:
        """The text of all tokens."""
        step = self.start()
        return "".join([*map(step.push, tokens), step.flush()])

    def start(self) -> Step:
        """Begin to decode a stream of tokens."""
        raise NotImplementedError


class ByteLevel(Decoder):
    """The bytes that tokens spell in the byte alphabet, as UTF-8; what isn't becomes U+FFFD."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> ByteLevel:
        for name in ("add_prefix_space", "trim_offsets"):
            spec.get(name, bool)
        spec.get("use_regex", bool, True)
        return cls()

    def decode(self, tokens: Series[str]) -> str:
        return b"".join(map(_BYTES.__getitem__, tokens)).decode("utf-8", "replace")

    def start(self) -> Step:
        return _ByteLevelStep()


class _BytesOfTokens(dict[str, bytes]):
    """Remembers what tokens spell; there are only as many as vocabularies have."""

    def __missing__(self, token: str) -> bytes:
        data = to_bytes(token)
        if len(self) < _MAX_REMEMBERED:
            self[token] = data
        return data


_BYTES = _BytesOfTokens()


class _ByteLevelStep(Step):
    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> str:
        return self._decoder.decode(_BYTES[token])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class NoDecoder(Decoder):
    """What the format prescribes where it names no decoder: tokens with spaces between."""

    __slots__ = ()

    def decode(self, tokens: Series[str]) -> str:
        return " ".join(tokens)

    def start(self) -> Step:
        return _JoinStep()


class _JoinStep(Step):
    __slots__ = ("_separator",)

    def __init__(self) -> None:
        self._separator = ""

    def push(self, token: str) -> str:
        text = self._separator + token
        self._separator = " "
        return text

    def flush(self) -> str:
        self._separator = ""
        return ""


DECODERS: dict[str, type[Decoder]] = {"ByteLevel": ByteLevel}
"""The decoders by their names in the format."""


def build_decoder(spec: Spec) -> Decoder:
    """The decoder that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    return build(DECODERS, spec)
