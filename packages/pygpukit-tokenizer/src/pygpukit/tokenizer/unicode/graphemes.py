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
    """Something without which every character is a cluster."""
    c = _classes()
    others = _VOWEL + _TRAILING + _REGIONAL + _LEADING
    return re.compile(f"[{c['EXTEND']}{c['SPACING_MARK']}{c['PREPEND']}{others}]|\r\n")


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
    if _joining().search(text) is None:
        return []
    spans = (match.span() for match in _several().finditer(text))
    return [(start, end) for start, end in spans if end - start > 1]
