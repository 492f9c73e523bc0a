"""Grapheme clusters as the reference's Precompiled normalizer sees them.

That normalizer replaces a whole cluster of less than six bytes by what its shortest prefix in the
rules stands for. With rules of our own, whether one was taken for a whole tells where it ends.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable

from charsmap import precompiled_charsmap
from tables import boundaries, literal, write
from tokenizers import normalizers

ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c) != "\n"]
# Five bytes, so with anything behind or before it in its cluster it is no longer replaced.
FULL = "e\u0301\u0301"
# A cluster of five bytes that begins with a consonant of an Indic script.
INDIC = "\u0937\u0301"
KA, VIRAMA, ZWJ, COPYRIGHT, TRADE_MARK = "\u0915", "\u094d", "\u200d", "\xa9", "\u2122\u0301"


def replaced(rules: dict[str, str], make: Callable[[str], str]) -> set[str]:
    """The characters c for which the cluster in ``make(c)`` is still replaced, by "Z"."""
    normalizer = normalizers.Precompiled(base64.b64decode(precompiled_charsmap(rules)))
    lines = normalizer.normalize_str("\n".join(map(make, ALL))).split("\n")
    # A mark that is left over tells that only its base was.
    return {c for c, line in zip(ALL, lines, strict=True) if "Z" in line and "\u0301" not in line}


def joined(rules: dict[str, str], make: Callable[[str], str]) -> set[str]:
    return set(ALL) - replaced(rules, make)


def spans(characters: Iterable[str]) -> str:
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code:
            runs[-1][1] = code + 1
        else:
            runs.append([code, code + 1])
    return boundaries((a, b) for a, b in runs)


def grapheme_tables() -> None:
    """Properties of Unicode Standard Annex 29 that decide about clusters of a few bytes."""
    indic = {INDIC[0]: "Z"}
    extending = joined({FULL: "Z"}, lambda c: FULL + c) - {"\u0301"}
    extending.add("\u0301")
    prepend = joined({FULL: "Z"}, lambda c: c + FULL) - {"\u0301"}
    pictographic = joined({TRADE_MARK[0]: "Z"}, lambda c: c + ZWJ + TRADE_MARK)
    extend = extending & joined({TRADE_MARK[0]: "Z"}, lambda c: COPYRIGHT + c + ZWJ + TRADE_MARK)
    linker = extending & joined(indic, lambda c: KA + c + INDIC)
    between = extending & joined(indic, lambda c: KA + VIRAMA + c + INDIC)
    scripts = [c for c in ALL if "\u0900" <= c < "\u1d00" and c not in extending]
    consonant = set(scripts) & joined(
        dict.fromkeys(scripts, "Z"), lambda c: KA + VIRAMA + c + "\u0301"
    )
    # Behind a control character, two marks are a cluster of their own, replaced by a single "Z".
    normalizer = normalizers.Precompiled(base64.b64decode(precompiled_charsmap({"\u0301": "Z"})))
    lines = normalizer.normalize_str("\n".join(c + "\u0301\u0301" for c in ALL)).split("\n")
    control = {c for c, line in zip(ALL, lines, strict=True) if line.count("Z") == 1} | {"\n"}
    write(
        "_graphemes.py",
        "What decides where grapheme clusters of up to five bytes end.",
        [
            literal("CONTROL", spans(control), "Control, CR and LF."),
            literal("EXTEND", spans(extend), "Extend and ZWJ."),
            literal("SPACING_MARK", spans(extending - extend), "SpacingMark."),
            literal("PREPEND", spans(prepend), "Prepend."),
            literal("PICTOGRAPHIC", spans(pictographic), "Extended_Pictographic."),
            literal("INDIC_CONSONANT", spans(consonant), "Indic_Conjunct_Break=Consonant."),
            literal("INDIC_LINKER", spans(linker), "Indic_Conjunct_Break=Linker."),
            literal("INDIC_EXTEND", spans(between), "Indic_Conjunct_Break=Extend, linkers too."),
        ],
    )
