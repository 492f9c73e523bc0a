"""Post-processors: put special tokens around encodings and give type ids."""

from __future__ import annotations

from functools import lru_cache

from pygpukit.tokenizer.byte_alphabet import ALPHABET
from pygpukit.tokenizer.encoding import Encoding, merged
from pygpukit.tokenizer.spec import Component, build
from pygpukit.tokenizer.unicode import WHITE_SPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.encoding import Span
    from pygpukit.tokenizer.spec import Spec

    Frame = tuple[list[int], list[int]]

_SPACES = WHITE_SPACE + ALPHABET[ord(" ")]


class PostProcessor(Component):
    """Base of all post-processors."""

    __slots__ = ()

    def added(self, *, pair: bool) -> int:
        """How many special tokens come to one sequence, or to two."""
        return 0

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        """Process one or two encodings; they are changed, and joined in the end."""
        raise NotImplementedError

    def frame(self) -> Frame | None:
        """The ids before and behind a single sequence; None if that isn't all there is to it."""
        return [], []


class ByteLevel(PostProcessor):
    """Takes the white space at the ends of tokens out of their offsets, if asked to."""

    __slots__ = ("add_prefix_space", "trim_offsets")

    def __init__(self, *, add_prefix_space: bool, trim_offsets: bool) -> None:
        self.add_prefix_space = add_prefix_space
        self.trim_offsets = trim_offsets

    @classmethod
    def from_spec(cls, spec: Spec) -> ByteLevel:
        spec.get("use_regex", bool, True)
        return cls(
            add_prefix_space=spec.get("add_prefix_space", bool),
            trim_offsets=spec.get("trim_offsets", bool),
        )

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        if self.trim_offsets:
            trim(encodings, add_prefix_space=self.add_prefix_space)
        for sequence, encoding in enumerate(encodings):
            encoding.set_sequence(sequence)
        return encodings


def trim(encodings: list[Encoding], *, add_prefix_space: bool) -> None:
    """Take white space out of the offsets of encodings and of what they overflow into."""
    for encoding in encodings:
        for part in (encoding, *encoding.overflowing):
            margins = list(map(_margins, part.tokens))
            first = part.offsets[:1]
            part.offsets = _trimmed(part.offsets, margins, kept=add_prefix_space)
            if first and margins[0] and add_prefix_space:
                part.offsets[0] = _shortened(first[0], margins[0], stays=True)


def _trimmed(spans: list[Span], margins: list[tuple[int, int] | None], *, kept: bool) -> list[Span]:
    """The spans without white space; with ``kept``, with one space that the text begins with."""
    return [
        span
        if margin is None
        else _shortened(span, margin, stays=kept and not span[0])
        if margin[1] or kept
        else (min(span[0] + margin[0], span[1]), span[1])
        for span, margin in zip(spans, margins, strict=True)
    ]


def _shortened(span: Span, margin: tuple[int, int], *, stays: bool) -> Span:
    start, end = span
    leading, trailing = margin
    if leading == 1 and stays:
        # The one space in front may be the one that pre-tokenizing put there.
        leading = 0
    start = min(start + leading, end)
    if trailing and end >= trailing:
        end = max(end - trailing, start)
    return start, end


@lru_cache(maxsize=1 << 16)
def _margins(token: str) -> tuple[int, int] | None:
    """How many characters of white space a token begins and ends with; None if it doesn't."""
    if not token or not (token[0] in _SPACES or token[-1] in _SPACES):
        return None
    return len(token) - len(token.lstrip(_SPACES)), len(token) - len(token.rstrip(_SPACES))


class RobertaProcessing(PostProcessor):
    """``<s> A </s>`` and ``<s> A </s></s> B </s>``, all of type 0, with offsets trimmed."""

    __slots__ = ("add_prefix_space", "cls", "sep", "trim_offsets")

    def __init__(
        self,
        sep: tuple[str, int],
        cls: tuple[str, int],
        *,
        trim_offsets: bool = True,
        add_prefix_space: bool = True,
    ) -> None:
        self.sep = sep
        self.cls = cls
        self.trim_offsets = trim_offsets
        self.add_prefix_space = add_prefix_space

    @classmethod
    def from_spec(cls, spec: Spec) -> RobertaProcessing:
        return cls(
            _token_pair(spec.child("sep")),
            _token_pair(spec.child("cls")),
            trim_offsets=spec.get("trim_offsets", bool),
            add_prefix_space=spec.get("add_prefix_space", bool),
        )

    def added(self, *, pair: bool) -> int:
        return 4 if pair else 2

    def frame(self) -> Frame | None:
        return [self.cls[1]], [self.sep[1]]

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        if self.trim_offsets:
            trim(encodings, add_prefix_space=self.add_prefix_space)
        for encoding in encodings:
            encoding.type_ids = [0] * len(encoding)
        if not add_special_tokens:
            return encodings
        for encoding in encodings:
            for part in encoding.overflowing:
                part.type_ids = [0] * len(part)
        return [
            framed(encoding, self.sep if i else self.cls, self.sep, min(i, 1), 0)
            for i, encoding in enumerate(encodings)
        ]


class BertProcessing(PostProcessor):
    """``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``, the second of type 1."""

    __slots__ = ("cls", "sep")

    def __init__(self, sep: tuple[str, int], cls: tuple[str, int]) -> None:
        self.sep = sep
        self.cls = cls

    @classmethod
    def from_spec(cls, spec: Spec) -> BertProcessing:
        return cls(_token_pair(spec.child("sep")), _token_pair(spec.child("cls")))

    def added(self, *, pair: bool) -> int:
        return 3 if pair else 2

    def frame(self) -> Frame | None:
        return [self.cls[1]], [self.sep[1]]

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        if not add_special_tokens:
            return encodings
        return [
            framed(encoding, None if i else self.cls, self.sep, min(i, 1), min(i, 1))
            for i, encoding in enumerate(encodings)
        ]


def framed(
    encoding: Encoding,
    start: tuple[str, int] | None,
    end: tuple[str, int],
    sequence: int,
    type_id: int,
) -> Encoding:
    """An encoding, and each overflowing part of it, between two special tokens of ``type_id``.

    What counted as special before is, as in the reference, from now on part of the text.
    """
    overflowing = [framed(part, start, end, sequence, type_id) for part in encoding.overflowing]
    encoding.overflowing = []
    encoding.sequence_ranges = {}
    encoding.set_sequence(sequence)
    encoding.special_tokens_mask = [0] * len(encoding)
    parts = [] if start is None else [Encoding.special([start[1]], [start[0]], type_id)]
    result = merged([*parts, encoding, Encoding.special([end[1]], [end[0]], type_id)])
    result.overflowing = overflowing
    return result


def _token_pair(spec: Spec) -> tuple[str, int]:
    value = spec.value
    if not isinstance(value, list) or [type(v) for v in value] != [str, int]:
        raise spec.error(f"expected [token, id], found {value!r}")
    return value[0], value[1]


class TemplateProcessing(PostProcessor):
    """Sequences and special tokens in the order of a template, with their type ids."""

    __slots__ = ("pair", "single", "special_tokens")

    def __init__(
        self,
        single: list[TemplatePiece],
        pair: list[TemplatePiece],
        special_tokens: dict[str, tuple[list[int], list[str]]],
    ) -> None:
        self.single = single
        self.pair = pair
        self.special_tokens = special_tokens

    @classmethod
    def from_spec(cls, spec: Spec) -> TemplateProcessing:
        specials = {}
        tokens = spec.child("special_tokens")
        for key in tokens.mapping():
            token = tokens.child(key)
            ids = [item.as_type(int) for item in token.items("ids")]
            specials[key] = (ids, [item.as_type(str) for item in token.items("tokens")])
        single = [TemplatePiece.from_spec(item, specials) for item in spec.items("single")]
        pair = [TemplatePiece.from_spec(item, specials) for item in spec.items("pair")]
        if any(piece.sequence == 1 for piece in single):
            raise spec.child("single").error("a single sequence has no B")
        return cls(single, pair, specials)

    def added(self, *, pair: bool) -> int:
        pieces = self.pair if pair else self.single
        return sum(len(self.special_tokens[p.special][0]) for p in pieces if p.special is not None)

    def frame(self) -> Frame | None:
        before: list[int] = []
        after: list[int] = []
        ids, seen = before, False
        for piece in self.single:
            if piece.special is not None:
                ids += self.special_tokens[piece.special][0]
            elif seen:
                return None
            else:
                ids, seen = after, True
        return (before, after) if seen else None

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        if len(encodings) not in (1, 2):
            raise ValueError(
                f"TemplateProcessing behind another post-processor that gives {len(encodings)} "
                "parts, not one or two sequences"
            )
        parts = []
        pieces = self.pair if len(encodings) == 2 else self.single
        sequences = [piece.sequence for piece in pieces if piece.special is None]
        for piece in pieces:
            if piece.special is None:
                encoding = encodings[piece.sequence]
                encoding.set_sequence(piece.sequence, piece.type_id)
                again = sequences.count(piece.sequence) > 1
                parts.append(encoding.copy() if again else encoding)
            elif add_special_tokens:
                ids, tokens = self.special_tokens[piece.special]
                parts.append(Encoding.special(ids, tokens, piece.type_id))
        return parts


class TemplatePiece:
    """A place in a template: special tokens by their key there, or sequence 0 (A) or 1 (B)."""

    __slots__ = ("sequence", "special", "type_id")

    def __init__(self, special: str | None, sequence: int, type_id: int) -> None:
        self.special = special
        self.sequence = sequence
        self.type_id = type_id

    @classmethod
    def from_spec(
        cls, spec: Spec, specials: dict[str, tuple[list[int], list[str]]]
    ) -> TemplatePiece:
        """A ``{"Sequence": ...}`` or ``{"SpecialToken": ...}``."""
        keys = list(spec.mapping())
        if keys == ["Sequence"]:
            inner = spec.child("Sequence")
            sequence = "AB".index(inner.choice("id", ("A", "B")))
            return cls(None, sequence, inner.get("type_id", int))
        if keys != ["SpecialToken"]:
            raise spec.error(f'expected one of "Sequence" and "SpecialToken", found {keys}')
        inner = spec.child("SpecialToken")
        special = inner.get("id", str)
        if special not in specials:
            raise inner.error(f"{special!r} isn't among the special_tokens")
        return cls(special, 0, inner.get("type_id", int))


class Sequence(PostProcessor):
    """Post-processors one after the other."""

    __slots__ = ("processors",)

    def __init__(self, processors: list[PostProcessor]) -> None:
        self.processors = processors

    @classmethod
    def from_spec(cls, spec: Spec) -> Sequence:
        return cls([build_post_processor(item) for item in spec.items("processors")])

    def added(self, *, pair: bool) -> int:
        return sum(processor.added(pair=pair) for processor in self.processors)

    def frame(self) -> Frame | None:
        before: list[int] = []
        after: list[int] = []
        framing = 0
        for processor in self.processors:
            frame = processor.frame()
            if frame is None:
                return None
            framing += not isinstance(processor, ByteLevel)
            before, after = frame[0] + before, after + frame[1]
        # A second one would take the parts of the first for its sequences.
        return (before, after) if framing < 2 else None

    def process(self, encodings: list[Encoding], *, add_special_tokens: bool) -> list[Encoding]:
        for processor in self.processors:
            encodings = processor.process(encodings, add_special_tokens=add_special_tokens)
        return encodings


POST_PROCESSORS = {
    "BertProcessing": __name__,
    "ByteLevel": __name__,
    "RobertaProcessing": __name__,
    "Sequence": __name__,
    "TemplateProcessing": __name__,
}
"""The modules of post-processors by their names in the format."""


def build_post_processor(spec: Spec) -> PostProcessor:
    """The post-processor that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    post_processor: PostProcessor = build(POST_PROCESSORS, spec)
    return post_processor
