"""Normalizers that edit a text: strip, replace, prepend, and the byte alphabet."""

from __future__ import annotations

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.byte_alphabet import spelled, to_alphabet
from pygpukit.tokenizer.normalizers.base import Normalizer
from pygpukit.tokenizer.onig import Literal, pattern_from_spec
from pygpukit.tokenizer.unicode import WHITE_SPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.onig import Pattern
    from pygpukit.tokenizer.spec import Spec


class Strip(Normalizer):
    """Drop the white space at the ends."""

    __slots__ = ("strip_left", "strip_right")

    def __init__(self, *, strip_left: bool, strip_right: bool) -> None:
        self.strip_left = strip_left
        self.strip_right = strip_right

    @classmethod
    def from_spec(cls, spec: Spec) -> Strip:
        return cls(
            strip_left=spec.get("strip_left", bool), strip_right=spec.get("strip_right", bool)
        )

    def normalize(self, text: str) -> str:
        if self.strip_left:
            text = text.lstrip(WHITE_SPACE)
        return text.rstrip(WHITE_SPACE) if self.strip_right else text

    def align(self, text: AlignedText) -> AlignedText:
        kept = self.normalize(text.text)
        if len(kept) == len(text.text):
            return text
        start = 0
        if self.strip_left:
            start = len(text.text) - len(text.text.lstrip(WHITE_SPACE))
        end = start + len(kept)
        return AlignedText(kept, text.origin, text.starts[start:end], text.ends[start:end])


class Replace(Normalizer):
    """Put ``content``, taken literally, in the place of every match of a pattern."""

    __slots__ = ("content", "pattern")

    def __init__(self, pattern: Pattern, content: str) -> None:
        self.pattern = pattern
        self.content = content

    @classmethod
    def from_spec(cls, spec: Spec) -> Replace:
        return cls(pattern_from_spec(spec.child("pattern")), spec.get("content", str))

    def normalize(self, text: str) -> str:
        return self.pattern.replace(text, self.content) if text else text

    def exchanges(self) -> bool:
        pattern = self.pattern
        return isinstance(pattern, Literal) and len(pattern.text) == len(self.content) == 1

    def align(self, text: AlignedText) -> AlignedText:
        if self.exchanges():
            return text.mapped(self.normalize(text.text))
        if not text.text:
            return text
        if len(self.content) == 1:
            # What stays the same stays in its place as well.
            matches = self.pattern.spans_unlike(text.text, self.content)
        else:
            matches = self.pattern.spans(text.text)
        return text.substituted(matches, self.content) if matches else text

    def inserts_in_front(self) -> bool:
        return self.pattern.nullable


class Prepend(Normalizer):
    """Put a text in front, unless there is nothing to put it in front of."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @classmethod
    def from_spec(cls, spec: Spec) -> Prepend:
        return cls(spec.get("prepend", str))

    def normalize(self, text: str) -> str:
        return self.prefix + text if text else text

    def align(self, text: AlignedText) -> AlignedText:
        return text.prepended(self.prefix) if text.text else text

    def inserts_in_front(self) -> bool:
        # The characters of a prefix share the origin of the one behind it; without one, see there.
        return not self.prefix


class ByteLevel(Normalizer):
    """Spell the text's bytes in the byte alphabet."""

    __slots__ = ()

    def normalize(self, text: str) -> str:
        return to_alphabet(text.encode())

    def align(self, text: AlignedText) -> AlignedText:
        return text.expanded(self.normalize(text.text), spelled)
