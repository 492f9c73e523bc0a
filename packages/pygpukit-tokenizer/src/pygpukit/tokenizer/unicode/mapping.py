"""Rewriting texts character by character."""

from __future__ import annotations

from functools import cache

from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pygpukit.tokenizer.unicode.sets import CodePoints

_MAX_REMEMBERED = 1 << 16


class CharacterMap(dict[int, str]):
    """For ``str.translate``: a code point to the text in its place, found when first asked for."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[str], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, code_point: int) -> str:
        text = self._find(chr(code_point))
        if len(self) < _MAX_REMEMBERED:
            self[code_point] = text
        return text


def removing(points: CodePoints) -> CharacterMap:
    """A map that drops the members of a set."""
    return CharacterMap(lambda c: "" if sets.contains(points, ord(c)) else c)


@cache
def _lower() -> Mapping[str, str]:
    from pygpukit.tokenizer.unicode import _case

    table = {text[0]: text[1:] for text in _case.SPECIAL}
    numbers = [int(n, 36) for n in _case.RUNS.split()]
    for first, count, stride, distance in zip(*(iter(numbers),) * 4, strict=True):
        for code_point in range(first, first + count * stride, stride):
            table[chr(code_point)] = chr(code_point + distance)
    return table


def lower(char: str) -> str:
    """The lower case of one character on its own, which may be several characters."""
    return _lower().get(char, char)
