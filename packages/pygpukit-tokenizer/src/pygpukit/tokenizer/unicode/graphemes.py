"""Grapheme clusters: extended ones, as Unicode Standard Annex 29 defines them.

Only clusters of a few bytes matter to the package, and the tables say no more than those show.
"""

from __future__ import annotations

import re
from functools import cache

from pygpukit.tokenizer.unicode import sets

# Hangul jamo and syllables by the class that decides what may follow.
_LEADING = "\u1100-\u115f\ua960-\ua97c"
_VOWEL = "\u1160-\u11a7\ud7b0-\ud7c6"
_TRAILING = "\u11a8-\u11ff\ud7cb-\ud7fb"
_SYLLABLE = "\uac00-\ud7a3"
_WITHOUT_TRAILING = "".join(map(chr, range(0xAC00, 0xD7A4, 28)))
_REGIONAL = "\U0001f1e6-\U0001f1ff"


@cache
def _classes() -> dict[str, str]:
    """The bodies of regular expressions' classes for the properties that decide."""
    from pygpukit.tokenizer.unicode import _graphemes as tables

    names = (
        "CONTROL EXTEND SPACING_MARK PREPEND PICTOGRAPHIC INDIC_CONSONANT INDIC_LINKER INDIC_EXTEND"
    )
    return {n: sets.as_class(sets.parse_set(getattr(tables, n))) for n in names.split()}


@cache
def _joining() -> re.Pattern[str]:
    """Runs of characters without which there is always a border, and some more.

    Those beyond U+FFFF count all: in a class that tells them apart, ``re`` looks up every other
    character one range after the other. A class in front lets the search skip what isn't in it.
    """
    from pygpukit.tokenizer.unicode import _graphemes as tables

    names = ("EXTEND", "SPACING_MARK", "PREPEND")
    parts = [sets.clip(sets.parse_set(getattr(tables, name)), 0x10000) for name in names]
    hangul = _VOWEL + _TRAILING + _LEADING
    members = f"[{''.join(map(sets.as_class, parts))}{hangul}\r\U00010000-\U0010ffff]"
    return re.compile(f"{members}{members}*")


@cache
def _several() -> re.Pattern[str]:
    """A cluster of several characters, for a search that begins at a cluster's begin."""
    c = _classes()
    after = f"[{c['EXTEND']}{c['SPACING_MARK']}]"
    hangul = (
        f"[{_LEADING}]*(?:[{_WITHOUT_TRAILING}]?[{_VOWEL}]+|[{_SYLLABLE}])[{_TRAILING}]*"
        f"|[{_LEADING}]+|[{_TRAILING}]+"
    )
    indic = c["INDIC_EXTEND"]
    conjunct = (
        f"[{c['INDIC_CONSONANT']}]"
        f"(?:[{indic}]*[{c['INDIC_LINKER']}][{indic}]*[{c['INDIC_CONSONANT']}])+"
    )
    picture = c["PICTOGRAPHIC"]
    emoji = f"[{picture}](?:[{c['EXTEND']}]*\u200d[{picture}])+"
    core = f"(?:{emoji}|{conjunct}|[{_REGIONAL}]{{2}}|{hangul}|[^{c['CONTROL']}])"
    prepended = f"[{c['PREPEND']}]+{core}?{after}*"
    return re.compile(f"\r\n|(?=..)(?:{prepended}|{core}{after}*)(?<=..)", re.DOTALL)


def clusters_of_several(text: str) -> list[tuple[int, int]]:
    """The spans of the clusters that are more than one character."""
    found: list[tuple[int, int]] = []
    begin = end = 0
    for match in _joining().finditer(text):
        # Between two characters that neither joins, there is always a border.
        if match.start() > end:
            found += _clusters_within(text, begin, end)
            begin = match.start() - 1
        end = min(match.end() + 1, len(text))
    return found + _clusters_within(text, begin, end)


def _clusters_within(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    if begin == end:
        return []
    spans = (match.span() for match in _several().finditer(text, begin, end))
    return [(start, stop) for start, stop in spans if stop - start > 1]
