"""The normal forms of Unicode, on the reference's own tables.

Only stretches with a character that can change are touched: a starter that neither decomposes for
good nor composes with what precedes it stays as it is.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from pygpukit.tokenizer.unicode import _normalization as tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Change = tuple[str, int]
    Edit = tuple[int, int, list[Change]]

_S_BASE, _L_BASE, _V_BASE, _T_BASE = 0xAC00, 0x1100, 0x1161, 0x11A7
_L_COUNT, _V_COUNT, _T_COUNT = 19, 21, 28
_S_COUNT = _L_COUNT * _V_COUNT * _T_COUNT
_SHORT_STRETCH = 16

_DECOMPOSED = {entry[0]: entry[1:] for entry in tables.DECOMPOSITIONS}
# The rank of a mark's combining class among all classes; starters have none (0).
_RANK = {mark: rank for rank, entry in enumerate(tables.ORDER, 1) for mark in entry[1:]}


@cache
def _compositions() -> dict[str, str]:
    """A pair of characters to the one that it composes to."""
    excluded = set(tables.EXCLUDED)
    whole = {text: char for char, text in _DECOMPOSED.items() if char not in excluded}
    return {whole.get(text[:-1], text[:-1]) + text[-1]: char for text, char in whole.items()}


@cache
def _compatibility() -> dict[str, str]:
    from pygpukit.tokenizer.unicode._compatibility import DECOMPOSITIONS

    return {entry[0]: entry[1:].replace("\1", " ") for entry in DECOMPOSITIONS}


class Form:
    """One of the four normal forms: ``composed`` for NFC and NFKC, ``compatible`` for the K's."""

    def __init__(self, *, composed: bool, compatible: bool) -> None:
        self._composed = composed
        self._table = {**_DECOMPOSED, **_compatibility()} if compatible else _DECOMPOSED
        self._unstable = _runs_of(self._changing(), hangul=not composed)
        # Texts have few different stretches that change.
        self._text_of = lru_cache(maxsize=1 << 14)(self._changed_text)

    def _changing(self) -> set[str]:
        """The characters that may change, be it with what is before them."""
        unstable = {*_RANK, *(self._table if self._table is not _DECOMPOSED else ())}
        if not self._composed:
            return {*unstable, *self._table}
        jamo = [*range(_V_BASE, _V_BASE + _V_COUNT), *range(_T_BASE + 1, _T_BASE + _T_COUNT)]
        unstable.update((pair[-1] for pair in _compositions()), tables.EXCLUDED, map(chr, jamo))
        return unstable | {c for c, text in self._table.items() if text[0] in unstable}

    def normalize(self, text: str) -> str:
        """The text in this form."""
        parts: list[str] = []
        position = 0
        for start, end in self._stretches(text):
            stretch = text[start:end]
            short = end - start <= _SHORT_STRETCH
            parts += (
                text[position:start],
                (self._text_of if short else self._changed_text)(stretch),
            )
            position = end
        return "".join([*parts, text[position:]]) if parts else text

    def edits(self, text: str) -> list[Edit]:
        """What to change in the text, as ``AlignedText.edited`` takes it."""
        edits: list[Edit] = []
        for start, end in self._stretches(text):
            changes = self._changed(text[start:end])
            if any(change for _, change in changes) or text[start:end] != _joined(changes):
                edits.append((start, end, changes))
        return edits

    def _stretches(self, text: str) -> Iterator[tuple[int, int]]:
        """What may change, where composing matters with the character before it."""
        if text.isascii():
            return
        before = int(self._composed)
        for match in self._unstable.finditer(text):
            start, end = match.span()
            yield max(start - before, 0), end

    def _changed_text(self, text: str) -> str:
        return _joined(self._changed(text))

    def _changed(self, text: str) -> list[Change]:
        changes = _decomposed(text, self._table)
        return _composed(changes) if self._composed else changes


def _joined(changes: Iterable[Change]) -> str:
    return "".join([char for char, _ in changes])


def _runs_of(characters: Iterable[str], *, hangul: bool) -> re.Pattern[str]:
    """Matches runs of the characters, of Hangul syllables, and of anything beyond U+FFFF.

    In a class that goes beyond, ``re`` looks up every other character one range after the other.
    """
    points = [ord(char) for char in characters if char < "\U00010000"]
    if hangul:
        points += range(_S_BASE, _S_BASE + _S_COUNT)
    members = f"[{''.join(_ranges(sorted(points)))}\U00010000-\U0010ffff]"
    # A class in front lets the search skip what isn't in it.
    return re.compile(f"{members}{members}*")


@cache
def form(name: str) -> Form:
    """The normal form of that name: NFC, NFD, NFKC or NFKD."""
    return Form(composed=name.endswith("C"), compatible="K" in name)


def with_marks(keep: Callable[[str], bool]) -> list[str]:
    """The characters whose decomposition has a mark that canonical order may move and ``keep``."""
    wanted = set(filter(keep, _RANK))
    return [*wanted, *(c for c, text in _DECOMPOSED.items() if not wanted.isdisjoint(text))]


def _ranges(points: list[int]) -> Iterable[str]:
    start = last = points[0]
    for point in [*points[1:], -1]:
        if point != last + 1:
            yield chr(start) if start == last else f"{chr(start)}-{chr(last)}"
            start = point
        last = point


def _decomposed(text: str, table: Mapping[str, str]) -> list[Change]:
    """The full decomposition; marks in canonical order, each taking its change along."""
    changes: list[Change] = []
    marks: list[tuple[int, Change]] = []
    for char in text:
        for i, part in enumerate(_parts(char, table)):
            rank = _RANK.get(part, 0)
            change = (part, int(i > 0))
            if rank:
                marks.append((rank, change))
                continue
            changes += _in_order(marks)
            marks = []
            changes.append(change)
    return changes + _in_order(marks)


def _in_order(marks: list[tuple[int, Change]]) -> list[Change]:
    return [change for _, change in sorted(marks, key=lambda mark: mark[0])]


def _parts(char: str, table: Mapping[str, str]) -> str:
    index = ord(char) - _S_BASE
    if 0 <= index < _S_COUNT:
        lead, rest = divmod(index, _V_COUNT * _T_COUNT)
        vowel, tail = divmod(rest, _T_COUNT)
        parts = chr(_L_BASE + lead) + chr(_V_BASE + vowel)
        return parts + chr(_T_BASE + tail) if tail else parts
    return table.get(char, char)


def _composed(changes: list[Change]) -> list[Change]:
    """Compose each starter with the marks that nothing blocks from it."""
    result: list[Change] = []
    starter: Change | None = None
    held: list[Change] = []
    last_rank = 0
    for char, change in changes:
        rank = _RANK.get(char, 0)
        if starter is None:
            if rank:
                result.append((char, change))
            else:
                starter = (char, change)
            continue
        blocked = bool(held) and last_rank >= rank
        composite = None if blocked else _compose_pair(starter[0], char)
        if composite is not None:
            starter = (composite, starter[1] + change - 1)
        elif rank:
            held.append((char, change))
            last_rank = rank
        else:
            result += [starter, *held]
            starter, held = (char, change), []
    return [*result, starter, *held] if starter is not None else result


def _compose_pair(first: str, second: str) -> str | None:
    lead, vowel = ord(first) - _L_BASE, ord(second) - _V_BASE
    if 0 <= lead < _L_COUNT and 0 <= vowel < _V_COUNT:
        return chr(_S_BASE + (lead * _V_COUNT + vowel) * _T_COUNT)
    syllable, tail = ord(first) - _S_BASE, ord(second) - _T_BASE
    if 0 <= syllable < _S_COUNT and syllable % _T_COUNT == 0 and 0 < tail < _T_COUNT:
        return chr(ord(first) + tail)
    return _compositions().get(first + second)
