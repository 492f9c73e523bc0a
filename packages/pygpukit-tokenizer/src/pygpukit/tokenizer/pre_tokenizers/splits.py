"""Pre-tokenizers that cut around the matches of a pattern or a character class."""

from __future__ import annotations

from functools import cache, partial

from pygpukit.tokenizer.onig import Literal, Pattern, pattern_from_spec
from pygpukit.tokenizer.onig.nodes import UNBOUNDED, Chars, Choice, Repeat
from pygpukit.tokenizer.pre_tokenizers.base import BEHAVIORS, Cutter, arrange
from pygpukit.tokenizer.unicode import WHITE_SPACE, sets
from pygpukit.tokenizer.unicode.properties import ASCII, UNICODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.onig.nodes import Node
    from pygpukit.tokenizer.pre_tokenizers.base import Span, Words
    from pygpukit.tokenizer.spec import Spec
    from pygpukit.tokenizer.unicode.properties import Universe
    from pygpukit.tokenizer.unicode.sets import CodePoints


class Split(Cutter):
    """Cut around the matches of a pattern, which ``behavior`` says what to do with.

    ``invert`` exchanges matches and the text between them.
    """

    __slots__ = ("behavior", "invert", "pattern")

    def __init__(self, pattern: Pattern, behavior: str, *, invert: bool = False) -> None:
        self.pattern = pattern
        self.behavior = behavior
        self.invert = invert

    @classmethod
    def from_spec(cls, spec: Spec) -> Split:
        pattern = pattern_from_spec(spec.child("pattern"))
        behavior = spec.choice("behavior", BEHAVIORS)
        return cls(pattern, behavior, invert=spec.get("invert", bool))

    def keeps_all(self) -> bool:
        return self.behavior != "Removed"

    def isolated_run(self, ascii_only: bool) -> Chars | Repeat | None:
        if isinstance(self.pattern, Literal) or self.behavior not in ("Isolated", "Contiguous"):
            return None
        node = self.pattern.node(ascii_only)
        body = node.body if isinstance(node, Repeat) and node.low == 1 else node
        if not isinstance(body, Chars) or (isinstance(node, Repeat) and node.mode == "?"):
            return None
        if self.behavior == "Contiguous":
            return Repeat(body, 1, UNBOUNDED)
        return node if isinstance(node, Chars | Repeat) else None

    def split(self, pieces: list[str]) -> list[str]:
        if isinstance(self.pattern, Literal) and not self.invert:
            literal = self.pattern.text
            if not any(literal in piece for piece in pieces):
                return pieces
        if self.behavior == "Removed" and self.invert:
            return self.pattern.matches(pieces)
        found = self.pattern.isolated(pieces) if self.behavior == "Isolated" else None
        return super().split(pieces) if found is None else found

    def words(self, piece: AlignedText) -> Words:
        if self.behavior == "Removed" and self.invert:
            return piece, *self.pattern.located_matches(piece.text)
        pieces = self.pattern.isolated([piece.text]) if self.behavior == "Isolated" else None
        return super().words(piece) if pieces is None else (piece, pieces, None)

    def cuts(self, text: str) -> Iterable[Span]:
        return arrange(self._parts(text), self.behavior)

    def _parts(self, text: str) -> list[tuple[int, int, bool]]:
        parts = []
        position = 0
        delimiter = not self.invert
        for start, end in self.pattern.spans(text):
            if position != start:
                parts.append((position, start, not delimiter))
            parts.append((start, end, delimiter))
            position = end
        if position != len(text):
            parts.append((position, len(text), not delimiter))
        return parts


class MatchCutter(Cutter):
    """A cutter whose pieces are all the matches of a pattern."""

    __slots__ = ("_pattern",)

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern

    def split(self, pieces: list[str]) -> list[str]:
        return self._pattern.matches(pieces)

    def words(self, piece: AlignedText) -> Words:
        return piece, *self._pattern.located_matches(piece.text)

    def cuts(self, text: str) -> Iterable[Span]:
        return self._pattern.spans(text)


class Digits(MatchCutter):
    """Cut between numeric characters and others, or around every numeric character."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Digits:
        individual = spec.get("individual_digits", bool)
        return cls(class_pattern(partial(_runs, "NUMERIC", individual)))

    def keeps_all(self) -> bool:
        return True

    def isolated_run(self, ascii_only: bool) -> Chars | Repeat | None:
        _, inside = self._pattern.node(ascii_only).children()
        assert isinstance(inside, Chars | Repeat)
        return inside


class Punctuation(Split):
    """Cut around punctuation characters: those of ASCII and of the categories P."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Punctuation:
        behavior = spec.choice("behavior", BEHAVIORS, "Isolated")
        return cls(class_pattern(_punctuation), behavior)


class Whitespace(MatchCutter):
    r"""The matches of ``\w+|[^\w\s]+``."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Whitespace:
        return cls(class_pattern(_words_or_symbols))


class WhitespaceSplit(MatchCutter):
    """What is between white space."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> WhitespaceSplit:
        return cls(class_pattern(_not_space))


class BertPreTokenizer(MatchCutter):
    """What is between white space, with every punctuation character apart."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> BertPreTokenizer:
        return cls(class_pattern(_bert))


class CharDelimiterSplit(Cutter):
    """What is between the occurrences of one character."""

    __slots__ = ("delimiter",)

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter

    @classmethod
    def from_spec(cls, spec: Spec) -> CharDelimiterSplit:
        return cls(spec.character("delimiter"))

    def cut(self, text: str) -> Iterable[str]:
        return filter(None, text.split(self.delimiter))

    def cuts(self, text: str) -> Iterable[Span]:
        position = 0
        for piece in text.split(self.delimiter):
            if piece:
                yield position, position + len(piece)
            position += len(piece) + 1


class FixedLength(Cutter):
    """Pieces of so many characters."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length

    @classmethod
    def from_spec(cls, spec: Spec) -> FixedLength:
        length = spec.natural("length", 5)
        if not length:
            raise spec.error("length: pieces can't have length 0")
        return cls(length)

    def keeps_all(self) -> bool:
        return True

    def cuts(self, text: str) -> Iterable[Span]:
        size = len(text)
        return [(start, min(start + self.length, size)) for start in range(0, size, self.length)]


# Patterns of character classes --------------------------------------------------------------------


@cache
def class_pattern(build: Callable[[Universe], Node]) -> Pattern:
    """A pattern whose nodes ``build`` makes for ASCII or for all of Unicode."""
    return Pattern(lambda ascii_only: build(ASCII if ascii_only else UNICODE))


def rust_set(name: str, universe: Universe) -> CodePoints:
    """A character class of the Rust standard library or the regex crate.

    For ASCII no table is read.
    """
    if universe is ASCII:
        return ASCII.bracket({"NUMERIC": "digit", "PUNCTUATION": "punct", "WORD": "word"}[name])
    from pygpukit.tokenizer.unicode import _rust

    return sets.parse_set(getattr(_rust, name))


def _some(points: CodePoints) -> Node:
    return Repeat(Chars(points), 1, UNBOUNDED)


def _space(universe: Universe) -> CodePoints:
    return universe.clip(sets.from_text(WHITE_SPACE))


def _runs(name: str, individual: bool, universe: Universe) -> Node:
    points = rust_set(name, universe)
    inside = Chars(points) if individual else _some(points)
    return Choice([_some(universe.complement(points)), inside])


def _punctuation(universe: Universe) -> Node:
    return Chars(rust_set("PUNCTUATION", universe))


def _words_or_symbols(universe: Universe) -> Node:
    word = rust_set("WORD", universe)
    return Choice([_some(word), _some(universe.complement(sets.union(word, _space(universe))))])


def _not_space(universe: Universe) -> Node:
    return _some(universe.complement(_space(universe)))


def _bert(universe: Universe) -> Node:
    punctuation = rust_set("PUNCTUATION", universe)
    others = universe.complement(sets.union(punctuation, _space(universe)))
    return Choice([_some(others), Chars(punctuation)])
