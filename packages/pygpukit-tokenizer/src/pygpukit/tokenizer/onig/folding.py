"""Case-insensitive matching as Oniguruma does it.

Sets are closed under its simple case folding; texts may equal one character, as "ss" does "ß".
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pygpukit.tokenizer.unicode.sets import CodePoints

# The texts of ASCII letters alone that fold to one character, as in "ss" and "ß".
_ASCII_MULTIPLE = ("ss", "ff", "fi", "fl", "st")


def close(points: CodePoints, limit: int) -> CodePoints:
    """``points`` and everything that equals one of them but for case, below ``limit``."""
    cased, groups = _cased(limit)
    extra: list[str] = []
    for start, end in zip(points[::2], points[1::2], strict=True):
        for group in groups[bisect_left(cased, start) : bisect_left(cased, end)]:
            extra += group
    return sets.clip(sets.union(points, sets.from_text(extra)) if extra else points, limit)


def several(literals: Sequence[str]) -> tuple[int, str, str] | None:
    """Whether literal characters begin with some that as a whole equal one character but for case.

    Oniguruma takes the most characters that it can. Returns how many these are, the text that they
    fold to, and the single characters that fold to it.
    """
    if "".join(literals).isascii() and not _begins_ascii(literals):
        return None
    folds = _multiple()
    for text, chars in folds.items():
        if literals[0] in chars:
            return 1, text, chars
    for text, chars in folds.items():
        if len(text) <= len(literals) and all(map(_equal, literals, text)):
            return len(text), text, chars
    return None


def texts_of(points: CodePoints) -> list[str]:
    """The texts of several characters that members of a set fold to, shorter ones first."""
    folds = _multiple()
    texts = [t for t in folds if any(sets.contains(points, ord(c)) for c in folds[t])]
    return sorted(texts, key=len)


def _begins_ascii(literals: Sequence[str]) -> bool:
    return "".join(literals).lower().startswith(_ASCII_MULTIPLE)


def _equal(literal: str, folded: str) -> bool:
    return literal == folded or any(
        literal in group and folded in group for group in _classes(sets.LIMIT)
    )


@cache
def _classes(limit: int) -> Sequence[str]:
    if limit == sets.ASCII_LIMIT:
        return [chr(c) + chr(c + 32) for c in range(ord("A"), ord("Z") + 1)]
    from pygpukit.tokenizer.unicode._folding import CLASSES

    return CLASSES


@cache
def _cased(limit: int) -> tuple[list[int], list[str]]:
    """The code points of all that equal others but for case, in order, and these with each."""
    by_code_point = {ord(char): group for group in _classes(limit) for char in group}
    cased = sorted(by_code_point)
    return cased, list(map(by_code_point.__getitem__, cased))


@cache
def _multiple() -> Mapping[str, str]:
    """Texts, longest first, and the single characters that fold to each."""
    from pygpukit.tokenizer.unicode._folding import MULTIPLE

    found: dict[str, str] = {}
    for entry in sorted(MULTIPLE, key=len, reverse=True):
        found[entry[1:]] = found.get(entry[1:], "") + entry[0]
    return found
