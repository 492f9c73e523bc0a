"""Pre-tokenizers: cut a text into the pieces that the model tokenizes one by one.

Each works on plain strings (``split``, the fast path) and on aligned text (``split_aligned``).
Most only cut; those are :class:`Cutter` and describe their cuts once for both.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import chain

from pygpukit.tokenizer.byte_alphabet import spelled, to_alphabet
from pygpukit.tokenizer.onig import Pattern, pattern_from_spec
from pygpukit.tokenizer.onig.nodes import UNBOUNDED, Chars, Choice, Repeat
from pygpukit.tokenizer.spec import Component, build
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.properties import ASCII, UNICODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Series

    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.onig.nodes import Node
    from pygpukit.tokenizer.spec import Spec

    Span = tuple[int, int]

BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class PreTokenizer(Component):
    """Base of all pre-tokenizers."""

    __slots__ = ()

    def split(self, pieces: list[str]) -> list[str]:
        """Cut every piece further; empty pieces are dropped."""
        raise NotImplementedError

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        """The same with the origins of the characters."""
        raise NotImplementedError


class Cutter(PreTokenizer):
    """A pre-tokenizer that only chooses where to cut and what to leave out."""

    __slots__ = ()

    def cut(self, text: str) -> Iterable[str]:
        """The pieces of one text."""
        return [text[start:end] for start, end in self.cuts(text)]

    def cuts(self, text: str) -> Iterable[Span]:
        """The non-empty pieces of one text as spans."""
        raise NotImplementedError

    def split(self, pieces: list[str]) -> list[str]:
        if len(pieces) == 1:
            return list(self.cut(pieces[0]))
        return list(chain.from_iterable(map(self.cut, pieces)))

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        return [piece.slice(start, end) for piece in pieces for start, end in self.cuts(piece.text)]


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

    def cut(self, text: str) -> Iterable[str]:
        if self.behavior == "Removed" and self.invert:
            return self.pattern.matches(text)
        if self.behavior == "Isolated":
            pieces = self.pattern.pieces(text)
            if pieces is not None:
                return pieces
        return super().cut(text)

    def cuts(self, text: str) -> Iterable[Span]:
        return arrange(self._parts(text), self.behavior)

    def _parts(self, text: str) -> list[tuple[int, int, bool]]:
        """Matches and what is between them: (start, end, whether it counts as a delimiter)."""
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


def arrange(parts: Series[tuple[int, int, bool]], behavior: str) -> list[Span]:
    """Join or drop delimiters as the behavior says; empty results are dropped."""
    if behavior == "Removed":
        return [(start, end) for start, end, delimiter in parts if not delimiter and start < end]
    if behavior == "Isolated":
        return [(start, end) for start, end, _ in parts if start < end]
    reverse = behavior == "MergedWithNext"
    joined: list[list[int]] = []
    previous = False
    for start, end, delimiter in reversed(parts) if reverse else parts:
        same = delimiter == previous if behavior == "Contiguous" else delimiter and not previous
        if same and joined:
            joined[-1][0 if reverse else 1] = start if reverse else end
        else:
            joined.append([start, end])
        previous = delimiter
    if reverse:
        joined.reverse()
    return [(start, end) for start, end in joined if start < end]


class Digits(Cutter):
    """Cut between numeric characters and others, or around every numeric character."""

    __slots__ = ("_pattern",)

    def __init__(self, *, individual_digits: bool) -> None:
        self._pattern = _numeric_pattern(individual_digits)

    @classmethod
    def from_spec(cls, spec: Spec) -> Digits:
        return cls(individual_digits=spec.get("individual_digits", bool))

    def cut(self, text: str) -> Iterable[str]:
        return self._pattern.matches(text)

    def cuts(self, text: str) -> Iterable[Span]:
        return self._pattern.spans(text)


class Punctuation(Split):
    """Cut around punctuation characters: those of ASCII and of the categories P."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Punctuation:
        behavior = spec.choice("behavior", BEHAVIORS, "Isolated")
        return cls(_set_pattern("PUNCTUATION"), behavior)


class ByteLevel(PreTokenizer):
    """GPT-2's: optionally a space in front, optionally GPT-2's pattern, then the byte alphabet."""

    __slots__ = ("add_prefix_space", "use_regex")

    def __init__(self, *, add_prefix_space: bool, use_regex: bool = True) -> None:
        self.add_prefix_space = add_prefix_space
        self.use_regex = use_regex

    @classmethod
    def from_spec(cls, spec: Spec) -> ByteLevel:
        spec.get("trim_offsets", bool)
        return cls(
            add_prefix_space=spec.get("add_prefix_space", bool),
            use_regex=spec.get("use_regex", bool, True),
        )

    def split(self, pieces: list[str]) -> list[str]:
        return [to_alphabet(piece.encode()) for piece in self.split_raw(pieces)]

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        return [
            piece.expanded(map(spelled, piece.text)) for piece in self.split_raw_aligned(pieces)
        ]

    def split_raw(self, pieces: list[str]) -> list[str]:
        """The pieces before they are spelled in the byte alphabet."""
        if self.add_prefix_space:
            pieces = [piece if piece[0] == " " else " " + piece for piece in pieces]
        return _gpt2_split().split(pieces) if self.use_regex else pieces

    def split_raw_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        """The same with origins."""
        if self.add_prefix_space:
            pieces = [piece if piece.text[0] == " " else piece.prepended(" ") for piece in pieces]
        return _gpt2_split().split_aligned(pieces) if self.use_regex else pieces


@cache
def _gpt2_split() -> Split:
    return Split(Pattern.from_source(GPT2_PATTERN), "Isolated")


def _rust_set(name: str, *, ascii_only: bool) -> sets.CodePoints:
    """A character class of the Rust standard library, restricted to ASCII without its table."""
    if ascii_only:
        return ASCII.bracket({"NUMERIC": "digit", "PUNCTUATION": "punct"}[name])
    from pygpukit.tokenizer.unicode import _rust

    return sets.parse_set(getattr(_rust, name))


def _set_node(name: str, ascii_only: bool) -> Node:
    return Chars(_rust_set(name, ascii_only=ascii_only))


def _cutting_node(name: str, individual: bool, ascii_only: bool) -> Node:
    points = _rust_set(name, ascii_only=ascii_only)
    universe = ASCII if ascii_only else UNICODE
    inside, outside = Chars(points), Chars(universe.complement(points))
    others = Repeat(outside, 1, UNBOUNDED)
    return Choice([others, inside if individual else Repeat(inside, 1, UNBOUNDED)])


@cache
def _set_pattern(name: str) -> Pattern:
    return Pattern(partial(_set_node, name))


@cache
def _numeric_pattern(individual: bool) -> Pattern:
    return Pattern(partial(_cutting_node, "NUMERIC", individual))


class Sequence(PreTokenizer):
    """Pre-tokenizers one after the other."""

    __slots__ = ("pretokenizers",)

    def __init__(self, pretokenizers: list[PreTokenizer]) -> None:
        self.pretokenizers = pretokenizers

    @classmethod
    def from_spec(cls, spec: Spec) -> Sequence:
        return cls([build_pre_tokenizer(item) for item in spec.items("pretokenizers")])

    def split(self, pieces: list[str]) -> list[str]:
        for pre_tokenizer in self.pretokenizers:
            pieces = pre_tokenizer.split(pieces)
        return pieces

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        for pre_tokenizer in self.pretokenizers:
            pieces = pre_tokenizer.split_aligned(pieces)
        return pieces


PRE_TOKENIZERS: dict[str, type[PreTokenizer]] = {
    "ByteLevel": ByteLevel,
    "Digits": Digits,
    "Punctuation": Punctuation,
    "Sequence": Sequence,
    "Split": Split,
}
"""The pre-tokenizers by their names in the format."""


def build_pre_tokenizer(spec: Spec) -> PreTokenizer:
    """The pre-tokenizer that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    return build(PRE_TOKENIZERS, spec)


def flattened(pre_tokenizer: PreTokenizer | None) -> list[PreTokenizer]:
    """The steps of nested sequences in one list."""
    if pre_tokenizer is None:
        return []
    if isinstance(pre_tokenizer, Sequence):
        return [step for inner in pre_tokenizer.pretokenizers for step in flattened(inner)]
    return [pre_tokenizer]
