"""Decoders that edit tokens: markers of words, clean-up, replacing and stripping."""

from __future__ import annotations

from itertools import groupby

from pygpukit.tokenizer.decoders.base import Decoder, Step, TokenDecoder
from pygpukit.tokenizer.metaspace import read_metaspace
from pygpukit.tokenizer.onig import pattern_from_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pygpukit.tokenizer.onig import Pattern
    from pygpukit.tokenizer.spec import Spec

_CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def cleaned_up(text: str) -> str:
    """Without the spaces that tokenizing put before punctuation, as the reference does it."""
    for old, new in _CLEANUP:
        text = text.replace(old, new)
    return text


class WordPiece(TokenDecoder):
    """Spaces between tokens, unless one begins with the prefix of continuing subwords."""

    __slots__ = ("cleanup", "prefix")

    def __init__(self, prefix: str, *, cleanup: bool) -> None:
        super().__init__()
        self.prefix = prefix
        self.cleanup = cleanup

    @classmethod
    def from_spec(cls, spec: Spec) -> WordPiece:
        return cls(spec.get("prefix", str), cleanup=spec.get("cleanup", bool))

    def first(self, token: str) -> str:
        return cleaned_up(token) if self.cleanup else token

    def other(self, token: str) -> str:
        joins = token.startswith(self.prefix)
        return self.first(token[len(self.prefix) :] if joins else " " + token)


class Metaspace(TokenDecoder):
    """A space for every replacement character; none for those of the first token."""

    __slots__ = ("drops_first", "replacement")

    def __init__(self, replacement: str, *, drops_first: bool) -> None:
        super().__init__()
        self.replacement = replacement
        self.drops_first = drops_first

    @classmethod
    def from_spec(cls, spec: Spec) -> Metaspace:
        replacement, scheme, _ = read_metaspace(spec)
        return cls(replacement, drops_first=scheme != "never")

    def first(self, token: str) -> str:
        return token.replace(self.replacement, "") if self.drops_first else self.other(token)

    def other(self, token: str) -> str:
        return token.replace(self.replacement, " ")

    def fused_step(self) -> Step:
        return _EachPiece(self.first)


class _EachPiece(Step):
    """Converts the pieces of one token without regard to where they begin and end."""

    __slots__ = ("_convert",)

    def __init__(self, convert: Callable[[str], str]) -> None:
        self._convert = convert

    def push(self, token: str) -> Iterable[str]:
        return (self._convert(token),)


class Replace(TokenDecoder):
    """``content``, taken literally, in the place of every match in a token."""

    __slots__ = ("content", "literal", "pattern")

    def __init__(self, pattern: Pattern, content: str, literal: str | None) -> None:
        """``literal`` is the text that the pattern matches, if it matches only one."""
        super().__init__()
        self.pattern = pattern
        self.content = content
        self.literal = literal

    @classmethod
    def from_spec(cls, spec: Spec) -> Replace:
        pattern = spec.child("pattern")
        literal = pattern.mapping().get("String")
        return cls(pattern_from_spec(pattern), spec.get("content", str), literal)

    def other(self, token: str) -> str:
        return self.pattern.replace(token, self.content) if token else token

    def fused_step(self) -> Step:
        if self.literal and len(self.literal) == 1:
            return _EachPiece(self.other)
        return super().fused_step()


class Strip(TokenDecoder):
    """Drop up to so many characters ``content`` from the start and from the end of a token."""

    __slots__ = ("content", "start", "stop")

    def __init__(self, content: str, start: int, stop: int) -> None:
        super().__init__()
        self.content = content
        self.start = start
        self.stop = stop

    @classmethod
    def from_spec(cls, spec: Spec) -> Strip:
        return cls(spec.character("content"), spec.natural("start"), spec.natural("stop"))

    def other(self, token: str) -> str:
        return self.without_stop(self.without_start(token, self.start))

    def without_start(self, text: str, most: int) -> str:
        """The text without at most so many characters at its start."""
        count = min(len(text) - len(text.lstrip(self.content)), most)
        return text[count:]

    def without_stop(self, text: str) -> str:
        """The text without what the end may lose."""
        count = min(len(text) - len(text.rstrip(self.content)), self.stop)
        return text[: len(text) - count]

    def fused_step(self) -> Step:
        return _StripStep(self)


class _StripStep(Step):
    """Strips a token that comes in pieces: what may be stripped from the end is held back."""

    __slots__ = ("_decoder", "_held", "_left")

    def __init__(self, decoder: Strip) -> None:
        self._decoder = decoder
        self._left = decoder.start
        self._held = ""

    def push(self, token: str) -> Iterable[str]:
        decoder = self._decoder
        if self._left and token:
            rest = decoder.without_start(token, self._left)
            # Anything but the content ends the start.
            self._left = 0 if rest else self._left - len(token)
            token = rest
        text = self._held + token
        certain = decoder.without_stop(text)
        self._held = text[len(certain) :]
        return (certain,)

    def flush(self) -> Iterable[str]:
        self._left = self._decoder.start
        self._held = ""
        return ()


class CTC(Decoder):
    """Repeated tokens once, without padding, and spaces for the delimiter of words."""

    __slots__ = ("cleanup", "pad_token", "word_delimiter_token")

    def __init__(self, pad_token: str, word_delimiter_token: str, *, cleanup: bool) -> None:
        self.pad_token = pad_token
        self.word_delimiter_token = word_delimiter_token
        self.cleanup = cleanup

    @classmethod
    def from_spec(cls, spec: Spec) -> CTC:
        return cls(
            spec.get("pad_token", str),
            spec.get("word_delimiter_token", str),
            cleanup=spec.get("cleanup", bool),
        )

    def convert(self, token: str) -> str:
        """What becomes of one token."""
        text = token.replace(self.pad_token, "")
        return cleaned_up(text).replace(self.word_delimiter_token, " ") if self.cleanup else text

    def chain(self, tokens: list[str]) -> list[str]:
        texts = (self.convert(token) for token, _ in groupby(tokens))
        return [text for text in texts if text]

    def step(self) -> Step:
        return _CTCStep(self)


class _CTCStep(Step):
    __slots__ = ("_decoder", "_previous")

    def __init__(self, decoder: CTC) -> None:
        self._decoder = decoder
        self._previous: str | None = None

    def push(self, token: str) -> Iterable[str]:
        if token == self._previous:
            return ()
        self._previous = token
        text = self._decoder.convert(token)
        return (text,) if text else ()

    def flush(self) -> Iterable[str]:
        self._previous = None
        return ()


class BPEDecoder(Decoder):
    """Spaces for the suffixes of words, but for the last token's."""

    __slots__ = ("suffix",)

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    @classmethod
    def from_spec(cls, spec: Spec) -> BPEDecoder:
        return cls(spec.get("suffix", str))

    def chain(self, tokens: list[str]) -> list[str]:
        if not tokens:
            return []
        texts = [token.replace(self.suffix, " ") for token in tokens]
        texts[-1] = tokens[-1].replace(self.suffix, "")
        return texts

    def step(self) -> Step:
        return _BPEStep(self.suffix)


class _BPEStep(Step):
    """Holds a token back that has the suffix: only the next one tells whether it is the last."""

    __slots__ = ("_held", "_suffix")

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        texts = [held.replace(self._suffix, " ") for held in self._held]
        self._held = []
        if self._suffix in token:
            self._held.append(token)
        else:
            texts.append(token)
        return texts

    def flush(self) -> Iterable[str]:
        texts = [held.replace(self._suffix, "") for held in self._held]
        self._held = []
        return texts
