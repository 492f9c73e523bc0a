"""What all decoders have in common.

A decoder turns a list of tokens into another list of tokens; what the last one gives, joined, is
the text. Decoding a stream does the same with steps that take one token at a time. Behind a decoder
that fuses all tokens into one, the others get that one token in pieces.
"""

from __future__ import annotations

from pygpukit.tokenizer.spec import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as Series

_MAX_REMEMBERED = 1 << 18
# Behind a decoder that fuses them, all tokens are one, which may be of any length.
MAX_REMEMBERED_LENGTH = 256


class Step:
    """Decoding under way: tokens go in, what has become certain comes out."""

    __slots__ = ()

    def push(self, token: str) -> Iterable[str]:
        """The tokens that ``token`` makes certain."""
        raise NotImplementedError

    def flush(self) -> Iterable[str]:
        """What is left at the end; the step starts over."""
        return ()


class Decoder(Component):
    """Base of all decoders."""

    __slots__ = ()

    def fuses(self) -> bool:
        """Whether it makes one token of all."""
        return False

    def chain(self, tokens: list[str]) -> list[str]:
        """The tokens that these become."""
        raise NotImplementedError

    def step(self) -> Step:
        """Begin to decode a stream of tokens."""
        raise NotImplementedError

    def fused_step(self) -> Step:
        """Begin to decode one token that comes in pieces; by default it is awaited."""
        return _AwaitWhole(self)

    def decode(self, tokens: Series[str]) -> str:
        """The text of all tokens."""
        return "".join(self.chain(list(tokens)))


class _AwaitWhole(Step):
    """Collects the pieces of a token and decodes it at the end."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._pieces: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        self._pieces.append(token)
        return ()

    def flush(self) -> Iterable[str]:
        pieces, self._pieces = self._pieces, []
        return self._decoder.chain(["".join(pieces)]) if pieces else ()


class TokenDecoder(Decoder):
    """A decoder that converts each token on its own; the first one may be treated specially."""

    __slots__ = ("_others",)

    def __init__(self) -> None:
        self._others = Remembered(self.other)

    def first(self, token: str) -> str:
        """What becomes of the first token."""
        return self._others[token]

    def other(self, token: str) -> str:
        """What becomes of any other."""
        raise NotImplementedError

    def chain(self, tokens: list[str]) -> list[str]:
        if not tokens:
            return []
        return [self.first(tokens[0]), *map(self._others.__getitem__, tokens[1:])]

    def step(self) -> Step:
        return _TokenStep(self.first, self._others.__getitem__)


class _TokenStep(Step):
    __slots__ = ("_begun", "_first", "_other")

    def __init__(self, first: Callable[[str], str], other: Callable[[str], str]) -> None:
        self._first = first
        self._other = other
        self._begun = False

    def push(self, token: str) -> Iterable[str]:
        convert = self._other if self._begun else self._first
        self._begun = True
        return (convert(token),)

    def flush(self) -> Iterable[str]:
        self._begun = False
        return ()


class Remembered(dict[str, str]):
    """What tokens become; there are only as many as a vocabulary has."""

    __slots__ = ("_convert",)

    def __init__(self, convert: Callable[[str], str]) -> None:
        super().__init__()
        self._convert = convert

    def __missing__(self, token: str) -> str:
        text = self._convert(token)
        if len(self) < _MAX_REMEMBERED and len(token) <= MAX_REMEMBERED_LENGTH:
            self[token] = text
        return text


class Chain(Decoder):
    """Decoders one after the other."""

    __slots__ = ("decoders",)

    def __init__(self, decoders: list[Decoder]) -> None:
        self.decoders = decoders

    def fuses(self) -> bool:
        return any(decoder.fuses() for decoder in self.decoders)

    def chain(self, tokens: list[str]) -> list[str]:
        for decoder in self.decoders:
            tokens = decoder.chain(tokens)
        return tokens

    def step(self) -> Step:
        steps: list[Step] = []
        fused = False
        for decoder in self.decoders:
            steps.append(decoder.fused_step() if fused else decoder.step())
            fused = fused or decoder.fuses()
        return _ChainStep(steps)

    def fused_step(self) -> Step:
        return _ChainStep([decoder.fused_step() for decoder in self.decoders])


class _ChainStep(Step):
    __slots__ = ("_steps",)

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    def push(self, token: str) -> Iterable[str]:
        return self._through([token], 0)

    def flush(self) -> Iterable[str]:
        tokens: list[str] = []
        for i, step in enumerate(self._steps):
            tokens += self._through(step.flush(), i + 1)
        return tokens

    def _through(self, tokens: Iterable[str], first: int) -> list[str]:
        for step in self._steps[first:]:
            tokens = [out for token in tokens for out in step.push(token)]
        return list(tokens)
