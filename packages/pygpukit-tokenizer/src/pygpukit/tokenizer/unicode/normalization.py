"""Canonical normalization on the reference's own tables.

Only stretches with a character that can change are touched: a starter that neither decomposes for
good nor composes with what precedes it stays as it is.
"""

from __future__ import annotations

import re
from functools import cache

from pygpukit.tokenizer.unicode import _normalization as tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Change = tuple[str, int]

_S_BASE, _L_BASE, _V_BASE, _T_BASE = 0xAC00, 0x1100, 0x1161, 0x11A7
_L_COUNT, _V_COUNT, _T_COUNT = 19, 21, 28
_S_COUNT = _L_COUNT * _V_COUNT * _T_COUNT

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
def _stretch() -> re.Pattern[str]:
    """A character with all those behind it that may combine with it or among themselves."""
    seconds = {pair[-1] for pair in _compositions()}
    jamo = map(chr, [*range(_V_BASE, _V_BASE + _V_COUNT), *range(_T_BASE + 1, _T_BASE + _T_COUNT)])
    unstable = {*seconds, *_RANK, *tables.EXCLUDED, *jamo}
    unstable |= {c for c, text in _DECOMPOSED.items() if text[0] in unstable}
    members = "".join(_ranges(sorted(map(ord, unstable))))
    return re.compile(f"[^{members}]?[{members}]+", re.DOTALL)


def _ranges(points: list[int]) -> Iterable[str]:
    start = last = points[0]
    for point in [*points[1:], -1]:
        if point != last + 1:
            yield chr(start) if start == last else f"{chr(start)}-{chr(last)}"
            start = point
        last = point


def compose(text: str) -> str:
    """NFC."""
    return _stretch().sub(_compose_match, text)


def _compose_match(match: re.Match[str]) -> str:
    return "".join([char for char, _ in _composed(_decomposed(match.group()))])


def composition_changes(text: str) -> list[Change]:
    """NFC as ``AlignedText.replaced`` takes it."""
    changes: list[Change] = []
    position = 0
    for match in _stretch().finditer(text):
        start, end = match.span()
        changes += [(char, 0) for char in text[position:start]]
        changes += _composed(_decomposed(text[start:end]))
        position = end
    changes += [(char, 0) for char in text[position:]]
    return changes


def _decomposed(text: str) -> list[Change]:
    """The full decomposition; marks in canonical order, each taking its change along."""
    changes: list[Change] = []
    marks: list[tuple[int, Change]] = []
    for char in text:
        for i, part in enumerate(_parts(char)):
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


def _parts(char: str) -> str:
    index = ord(char) - _S_BASE
    if 0 <= index < _S_COUNT:
        lead, rest = divmod(index, _V_COUNT * _T_COUNT)
        vowel, tail = divmod(rest, _T_COUNT)
        parts = chr(_L_BASE + lead) + chr(_V_BASE + vowel)
        return parts + chr(_T_BASE + tail) if tail else parts
    return _DECOMPOSED.get(char, char)


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
