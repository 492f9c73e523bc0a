"""The pre-tokenizer that cuts between scripts."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import pairwise

from pygpukit.tokenizer.pre_tokenizers.base import Cutter
from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pygpukit.tokenizer.pre_tokenizers.base import Span

# The class of spaces and of characters without a script, which go with whatever is before them.
_ANY = 0
_MAX_REMEMBERED = 1 << 16


class UnicodeScripts(Cutter):
    """Cut where the script changes. Hiragana and Katakana count as Han, as in SentencePiece."""

    __slots__ = ()

    def cuts(self, text: str) -> Iterable[Span]:
        classes = _classes()
        starts = []
        last = _ANY
        for position, char in enumerate(text):
            script = classes[char]
            if script not in (_ANY, last):
                starts.append(position)
                last = script
        # What is before the first script is left out.
        return list(pairwise([*starts, len(text)]))


class _Classes(dict[str, int]):
    """Characters to the number of their script, found when asked for."""

    def __init__(self, cuts: list[tuple[int, int]]) -> None:
        super().__init__()
        self._starts = [start for start, _ in cuts]
        self._masks = [mask for _, mask in cuts]

    def __missing__(self, char: str) -> int:
        mask = self._masks[bisect_right(self._starts, ord(char)) - 1]
        script = mask.bit_length()
        if len(self) < _MAX_REMEMBERED:
            self[char] = script
        return script


@cache
def _classes() -> _Classes:
    from pygpukit.tokenizer.unicode._unicode_scripts import SCRIPTS

    return _Classes(sets.partition([sets.parse_set(script) for script in SCRIPTS]))
