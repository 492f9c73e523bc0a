"""Normalizers that are about Unicode: normal forms, accents, case and odd spaces."""

from __future__ import annotations

from functools import cache

from pygpukit.tokenizer.normalizers.base import CharacterNormalizer, Normalizer
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.mapping import CharacterMap, lower, removing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.spec import Spec


class NormalForm(Normalizer):
    """Base of the normal forms of Unicode; a subclass is named like its form."""

    __slots__ = ()

    def normalize(self, text: str) -> str:
        if text.isascii():
            return text
        from pygpukit.tokenizer.unicode.normalization import form

        return form(type(self).__name__).normalize(text)

    def align(self, text: AlignedText) -> AlignedText:
        if text.text.isascii():
            return text
        from pygpukit.tokenizer.unicode.normalization import form

        edits = form(type(self).__name__).edits(text.text)
        return text.edited(edits) if edits else text


class NFC(NormalForm):
    """Canonical composition."""

    __slots__ = ()


class NFD(NormalForm):
    """Canonical decomposition."""

    __slots__ = ()


class NFKC(NormalForm):
    """Compatibility decomposition, then canonical composition."""

    __slots__ = ()


class NFKD(NormalForm):
    """Compatibility decomposition."""

    __slots__ = ()


class StripAccents(CharacterNormalizer):
    """Drop combining marks; characters that are composed with them stay as they are."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> StripAccents:
        return cls(combining_marks_removed())

    def normalize(self, text: str) -> str:
        return text if text.isascii() else super().normalize(text)


@cache
def combining_marks_removed() -> CharacterMap:
    """Drops the categories M of the reference's normalization crate."""
    from pygpukit.tokenizer.unicode._removed import COMBINING_MARKS

    return removing(sets.parse_set(COMBINING_MARKS))


class Lowercase(CharacterNormalizer):
    """The lower case of each character, whatever stands beside it: no final sigma."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Lowercase:
        return cls(lowered())

    def normalize(self, text: str) -> str:
        return text.lower() if text.isascii() else super().normalize(text)


@cache
def lowered() -> CharacterMap:
    """Characters to their lower case."""
    return CharacterMap(lower)


_NMT_REMOVED = frozenset(map(chr, [*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]))
_NMT_SPACES = frozenset(
    "\t\n\f\r\u1680\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2581\ufeff\ufffd"
)


class Nmt(CharacterNormalizer):
    """The clean-up of SentencePiece's ``nmt`` rules: control characters and odd spaces."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Nmt:
        return cls(_nmt())


@cache
def _nmt() -> CharacterMap:
    return CharacterMap(lambda c: "" if c in _NMT_REMOVED else " " if c in _NMT_SPACES else c)
