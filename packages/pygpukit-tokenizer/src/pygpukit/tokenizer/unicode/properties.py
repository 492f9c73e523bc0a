"""Named character properties, as Oniguruma and the Rust crates of the reference know them.

A :class:`Universe` answers for a range of code points. ``ASCII`` needs none of the big tables, so
that a tokenizer that only ever sees ASCII never parses them; ``UNICODE`` parses each on first use.
"""

from __future__ import annotations

import re
from functools import cache

from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.unicode.sets import CodePoints

# Long names that Oniguruma accepts for the general categories, normalised as `normalise` does.
_LONG_NAMES = {
    "letter": "L", "uppercaseletter": "Lu", "lowercaseletter": "Ll", "titlecaseletter": "Lt",
    "casedletter": "LC", "modifierletter": "Lm", "otherletter": "Lo", "mark": "M",
    "combiningmark": "M", "nonspacingmark": "Mn", "spacingmark": "Mc", "enclosingmark": "Me",
    "number": "N", "decimalnumber": "Nd", "letternumber": "Nl", "othernumber": "No",
    "punctuation": "P", "connectorpunctuation": "Pc", "dashpunctuation": "Pd",
    "openpunctuation": "Ps", "closepunctuation": "Pe", "initialpunctuation": "Pi",
    "finalpunctuation": "Pf", "otherpunctuation": "Po", "symbol": "S", "mathsymbol": "Sm",
    "currencysymbol": "Sc", "modifiersymbol": "Sk", "othersymbol": "So", "separator": "Z",
    "spaceseparator": "Zs", "lineseparator": "Zl", "paragraphseparator": "Zp", "other": "C",
    "control": "Cc", "format": "Cf", "privateuse": "Co", "surrogate": "Cs", "unassigned": "Cn",
}  # fmt: skip
_CATEGORIES = {
    name.lower(): name
    for name in (
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs Cn "
        "L M N P S Z C LC"
    ).split()
} | _LONG_NAMES
_GROUPS = {"LC": ("Lu", "Ll", "Lt")}
_BRACKETS = (
    "alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit any"
).split()
_ALIASES = {
    "alphabetic": "alpha", "uppercase": "upper", "lowercase": "lower", "whitespace": "space",
    "assigned": "assigned",
}  # fmt: skip
_ASCII_CATEGORIES = {
    "Cc": (0x00, 0x20, 0x7F, 0x80), "Zs": (0x20, 0x21), "Nd": (0x30, 0x3A), "Lu": (0x41, 0x5B),
    "Ll": (0x61, 0x7B), "Pc": (0x5F, 0x60), "Pd": (0x2D, 0x2E), "Sc": (0x24, 0x25),
    "Ps": (0x28, 0x29, 0x5B, 0x5C, 0x7B, 0x7C), "Pe": (0x29, 0x2A, 0x5D, 0x5E, 0x7D, 0x7E),
    "Sm": (0x2B, 0x2C, 0x3C, 0x3F, 0x7C, 0x7D, 0x7E, 0x7F), "Sk": (0x5E, 0x5F, 0x60, 0x61),
    "Po": (0x21, 0x24, 0x25, 0x28, 0x2A, 0x2B, 0x2C, 0x2D, 0x2E, 0x30, 0x3A, 0x3C, 0x3F, 0x41,
           0x5C, 0x5D),
}  # fmt: skip
_BARE_WORD_EXTRAS = sets.from_text("²³¹¼½¾")


class Universe:
    """Character properties restricted to the code points below ``limit``."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def complement(self, points: CodePoints) -> CodePoints:
        """Everything of this universe that isn't in ``points``."""
        return sets.complement(points, self.limit)

    def clip(self, points: CodePoints) -> CodePoints:
        """``points`` without what lies outside this universe."""
        return points if self.limit == sets.LIMIT else sets.clip(points, self.limit)

    def category(self, name: str) -> CodePoints:
        """A general category such as ``Lu``, or a group of them such as ``L``."""
        if self.limit != sets.LIMIT:
            return sets.union(
                *(
                    v
                    for k, v in _ASCII_CATEGORIES.items()
                    if k in _GROUPS.get(name, ()) or k.startswith(name)
                )
            )
        return _category(name)

    def word(self, *, bare: bool = True) -> CodePoints:
        r"""Oniguruma's ``\w``.

        Outside of brackets (``bare``) it has six Latin-1 characters more: there the library asks
        its Latin-1 table, inside it asks Unicode's.
        """
        word = self.bracket("word")
        return self.clip(sets.union(word, _BARE_WORD_EXTRAS)) if bare else word

    def bracket(self, name: str) -> CodePoints:
        """A POSIX bracket such as ``alpha``, without the colons."""
        if self.limit != sets.LIMIT:
            return _ascii_bracket(name)
        return _bracket(name)

    def property(self, name: str, *, in_brackets: bool) -> CodePoints:
        r"""``\\p{name}``.

        Raises:
            KeyError: Oniguruma has no such property, or this package doesn't know it.
        """
        key = re.sub("[ _-]", "", name).lower()
        if key in _CATEGORIES:
            return self.category(_CATEGORIES[key])
        key = _ALIASES.get(key, key)
        if key == "word":
            return self.word(bare=not in_brackets)
        if key == "assigned":
            return self.complement(self.category("Cn"))
        if key in _BRACKETS:
            return self.bracket(key)
        return self.clip(_script(key))


def _ascii_bracket(name: str) -> CodePoints:
    universe = ASCII
    category = universe.category
    if name == "any" or name == "ascii":
        return (0, sets.ASCII_LIMIT)
    if name == "space":
        return (0x09, 0x0E, 0x20, 0x21)
    if name == "blank":
        return (0x09, 0x0A, 0x20, 0x21)
    if name == "xdigit":
        return (0x30, 0x3A, 0x41, 0x47, 0x61, 0x67)
    groups = {
        "alnum": "L N", "alpha": "L", "cntrl": "Cc", "digit": "Nd", "graph": "L N P S",
        "lower": "Ll", "print": "L N P S Zs", "punct": "P S", "upper": "Lu", "word": "L N Pc",
    }  # fmt: skip
    return sets.union(*(category(part) for part in groups[name].split()))


@cache
def _bracket(name: str) -> CodePoints:
    from pygpukit.tokenizer.unicode import _oniguruma

    if name in ("alnum", "alpha", "graph", "lower", "print", "space", "upper", "word"):
        return sets.parse_set(getattr(_oniguruma, name.upper()))
    if name == "any":
        return (0, sets.LIMIT)
    if name in ("ascii", "xdigit"):
        return _ascii_bracket(name)
    if name == "blank":
        return sets.union(_category("Zs"), (0x09, 0x0A))
    if name == "punct":
        return sets.union(_category("P"), _category("S"))
    return _category({"cntrl": "Cc", "digit": "Nd"}[name])


@cache
def _category(name: str) -> CodePoints:
    groups = _GROUPS.get(name)
    wanted = [k for k in _categories() if (k in groups if groups else k.startswith(name))]
    return sets.from_ranges(span for k in wanted for span in _categories()[k])


@cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """Inclusive ranges of every general category, from one pass over the run-length table."""
    from pygpukit.tokenizer.unicode import _oniguruma

    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    ranges: dict[str, list[tuple[int, int]]] = {name: [] for name in _oniguruma.CATEGORIES}
    by_letter = {letters[i]: ranges[name] for i, name in enumerate(_oniguruma.CATEGORIES)}
    position = 0
    for run in _oniguruma.RUNS.split():
        length = int(run[1:], 36)
        by_letter[run[0]].append((position, position + length - 1))
        position += length
    return ranges


@cache
def _script(key: str) -> CodePoints:
    from pygpukit.tokenizer.unicode._scripts import SCRIPTS

    return sets.parse_set(SCRIPTS[key])


ASCII = Universe(sets.ASCII_LIMIT)
UNICODE = Universe(sets.LIMIT)
