"""Case-insensitive matching as Oniguruma does it: sets closed under its simple case folding."""

from __future__ import annotations

from functools import cache

from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygpukit.tokenizer.unicode.sets import CodePoints

# The texts of ASCII letters alone that fold to one character, as in "ss" and "ß".
_ASCII_MULTIPLE = ("ss", "ff", "fi", "fl", "st")


def close(points: CodePoints, limit: int) -> CodePoints:
    """``points`` and everything that equals one of them but for case, below ``limit``."""
    extra: list[str] = []
    for group in _classes(limit):
        if any(sets.contains(points, ord(c)) for c in group):
            extra += group
    return sets.clip(sets.union(points, sets.from_text(extra)), limit)


def fold_to_one(literals: Sequence[str]) -> str:
    """A part of a literal text that also matches a single other character under ``(?i)``.

    Returns "" when there is none, which is what a translation one character at a time needs.
    """
    text = "".join(literals).casefold()
    candidates = _ASCII_MULTIPLE if text.isascii() else _multiple()
    return next((part for part in candidates if part in text), "")


@cache
def _classes(limit: int) -> Sequence[str]:
    if limit == sets.ASCII_LIMIT:
        return [chr(c) + chr(c + 32) for c in range(ord("A"), ord("Z") + 1)]
    from pygpukit.tokenizer.unicode._folding import CLASSES

    return CLASSES


def _multiple() -> Sequence[str]:
    from pygpukit.tokenizer.unicode._folding import MULTIPLE

    return MULTIPLE
