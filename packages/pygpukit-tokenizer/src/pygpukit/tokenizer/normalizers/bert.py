"""BERT's normalizer."""

from __future__ import annotations

import re
from functools import cache

from pygpukit.tokenizer.normalizers.base import CharacterNormalizer, Normalizer
from pygpukit.tokenizer.normalizers.unicode_forms import NFD, Lowercase, lowered
from pygpukit.tokenizer.unicode import WHITE_SPACE, sets
from pygpukit.tokenizer.unicode.mapping import CharacterMap, removing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.spec import Spec
    from pygpukit.tokenizer.unicode.sets import CodePoints

# As the reference has them, with 0x2B920 where the block begins at 0x2B820.
_IDEOGRAPHS = sets.from_ranges(
    [
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B920, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    ]
)


class BertNormalizer(Normalizer):
    """Clean up, put spaces around ideographs, strip accents, lowercase: each as asked for.

    Nearly every text can be rewritten character by character in one pass. Where canonical order
    could exchange characters that are not dropped as accents, the steps are taken one by one.
    """

    __slots__ = ("_one_pass", "_steps", "_strips")

    def __init__(
        self,
        *,
        clean_text: bool = True,
        handle_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        lowercase: bool = True,
    ) -> None:
        self._strips = lowercase if strip_accents is None else strip_accents
        self._steps: list[Normalizer] = []
        if clean_text:
            self._steps.append(CharacterNormalizer(_cleaned()))
        if handle_chinese_chars:
            self._steps.append(CharacterNormalizer(_spaced()))
        if self._strips:
            self._steps += [NFD(), CharacterNormalizer(_nonspacing_marks_removed())]
        if lowercase:
            self._steps.append(Lowercase(lowered()))
        self._one_pass = CharacterMap(self._stepwise)

    @classmethod
    def from_spec(cls, spec: Spec) -> BertNormalizer:
        return cls(
            clean_text=spec.get("clean_text", bool),
            handle_chinese_chars=spec.get("handle_chinese_chars", bool),
            strip_accents=spec.optional("strip_accents", bool),
            lowercase=spec.get("lowercase", bool),
        )

    def normalize(self, text: str) -> str:
        if self._strips and _has_moving_marks(text):
            return self._stepwise(text)
        return text.translate(self._one_pass)

    def _stepwise(self, text: str) -> str:
        for step in self._steps:
            text = step.normalize(text)
        return text

    def align(self, text: AlignedText) -> AlignedText:
        if self._strips and _has_moving_marks(text.text):
            for step in self._steps:
                text = step.align(text)
            return text
        normalized = text.text.translate(self._one_pass)
        if normalized == text.text:
            return text
        return text.expanded(normalized, lambda char: self._one_pass[ord(char)])


def _has_moving_marks(text: str) -> bool:
    """Whether there are marks that canonical order may move but that are no accents to drop."""
    if text.isascii():
        return False
    basic, all_of_them = _moving_marks()
    return basic.search(text) is not None and all_of_them.search(text) is not None


@cache
def _moving_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A fast pattern for these marks that takes all beyond U+FFFF for such, and an exact one."""
    from pygpukit.tokenizer.unicode.normalization import with_marks

    accents = _nonspacing_marks()
    moving = sorted(with_marks(lambda mark: not sets.contains(accents, ord(mark))))
    basic = "".join(mark for mark in moving if mark < "\U00010000")
    return re.compile(f"[{basic}\U00010000-\U0010ffff]"), re.compile(f"[{''.join(moving)}]")


@cache
def _nonspacing_marks() -> CodePoints:
    from pygpukit.tokenizer.unicode._removed import NONSPACING_MARKS

    return sets.parse_set(NONSPACING_MARKS)


@cache
def _nonspacing_marks_removed() -> CharacterMap:
    return removing(_nonspacing_marks())


@cache
def _cleaned() -> CharacterMap:
    from pygpukit.tokenizer.unicode._removed import CONTROLS

    controls = sets.parse_set(CONTROLS)

    def find(char: str) -> str:
        if sets.contains(controls, ord(char)):
            return ""
        return " " if char in WHITE_SPACE else char

    return CharacterMap(find)


@cache
def _spaced() -> CharacterMap:
    return CharacterMap(lambda c: f" {c} " if sets.contains(_IDEOGRAPHS, ord(c)) else c)
