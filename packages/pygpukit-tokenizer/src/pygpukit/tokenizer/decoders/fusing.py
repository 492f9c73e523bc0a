"""Decoders that put tokens together: bytes to characters, tokens to one text."""

from __future__ import annotations

from itertools import compress, count

from pygpukit.tokenizer.decoders.base import Decoder, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BYTE_TOKEN_LENGTH = len("<0x00>")


def byte_of(token: str) -> int | None:
    """The byte that a token such as ``<0x0A>`` stands for; None for other tokens."""
    if len(token) != _BYTE_TOKEN_LENGTH or not token.startswith("<0x") or token[5] != ">":
        return None
    digits = token[3:5]
    # Rust's parser takes a sign, as in <0x+A>, but neither spaces nor underscores.
    if not digits.isascii() or not (
        digits[1].isalnum() and (digits[0].isalnum() or digits[0] == "+")
    ):
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None


class ByteFallback(Decoder):
    """Runs of byte tokens as UTF-8; one U+FFFD for each byte of a run that isn't valid."""

    __slots__ = ()

    def chain(self, tokens: list[str]) -> list[str]:
        kinds = [token for token in set(tokens) if token.startswith("<0x")]
        values = {token: byte for token in kinds if (byte := byte_of(token)) is not None}
        if not values:
            return tokens
        result: list[str] = []
        end = 0
        run = bytearray()
        for place in compress(count(), map(values.__contains__, tokens)):
            if place != end:
                result += _decoded(run)
                result += tokens[end:place]
                run.clear()
            run.append(values[tokens[place]])
            end = place + 1
        return [*result, *_decoded(run), *tokens[end:]]

    def step(self) -> Step:
        return _ByteFallbackStep()


class _ByteFallbackStep(Step):
    """Holds a run of bytes back until it ends.

    Whether the bytes of a run are shown or replaced depends on every one of them.
    """

    __slots__ = ("_run",)

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> Iterable[str]:
        byte = byte_of(token)
        if byte is not None:
            self._run.append(byte)
            return ()
        return (*self.flush(), token) if self._run else (token,)

    def flush(self) -> Iterable[str]:
        run, self._run = self._run, bytearray()
        return _decoded(run)


def _decoded(run: bytearray) -> Iterable[str]:
    """What comes of a run of bytes."""
    if not run:
        return ()
    try:
        return (run.decode(),)
    except UnicodeDecodeError:
        return ("\ufffd",) * len(run)


class Fuse(Decoder):
    """All tokens as one."""

    __slots__ = ()

    def fuses(self) -> bool:
        return True

    def chain(self, tokens: list[str]) -> list[str]:
        return ["".join(tokens)]

    def step(self) -> Step:
        return _FuseStep()

    def fused_step(self) -> Step:
        return _FuseStep()


class _FuseStep(Step):
    __slots__ = ()

    def push(self, token: str) -> Iterable[str]:
        return (token,)


class NoDecoder(Decoder):
    """What the format prescribes where it names no decoder: tokens with spaces between."""

    __slots__ = ()

    def chain(self, tokens: list[str]) -> list[str]:
        return [" ".join(tokens)]

    def step(self) -> Step:
        return _JoinStep()


class _JoinStep(Step):
    __slots__ = ("_separator",)

    def __init__(self) -> None:
        self._separator = ""

    def push(self, token: str) -> Iterable[str]:
        text = self._separator + token
        self._separator = " "
        return (text,)

    def flush(self) -> Iterable[str]:
        self._separator = ""
        return ()
