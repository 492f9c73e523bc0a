"""Matching: an Oniguruma pattern on the standard library's ``re``, exact and fast.

A pattern only ever asks of a character which of its sets it belongs to. So the code points fall
into a few classes, the members of one being interchangeable, and it is enough to compile the
pattern for one representative of each class and to match it on the text with every character
replaced by its representative; the spans are those of the text. ASCII characters represent
themselves, so ASCII text needs no replacing, and for it a pattern is compiled that knows nothing of
the rest. Both are byte-sized alphabets, on which ``re`` is fastest.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

from pygpukit.tokenizer.errors import PatternError
from pygpukit.tokenizer.onig.nodes import (
    UNBOUNDED,
    Anchor,
    Assertion,
    Atomic,
    Chars,
    Choice,
    Concat,
    Look,
    Node,
    Repeat,
    walk,
)
from pygpukit.tokenizer.onig.parser import parse
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.properties import ASCII, UNICODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pygpukit.tokenizer.unicode.sets import CodePoints

# A representative outside of ASCII is taken from here on.
_FIRST_OTHER = 0x80
_MAX_REMEMBERED = 1 << 16
_SPECIAL = frozenset("\\]^-[&~|")


class Classes(dict[int, int]):
    """For ``str.translate``: a code point to the representative of its class, found when asked."""

    def __init__(self, cuts: list[tuple[int, int]]) -> None:
        super().__init__((c, c) for c in range(sets.ASCII_LIMIT))
        self._starts = [start for start, _ in cuts]
        self._masks = [mask for _, mask in cuts]
        self.of_mask: dict[int, int] = {}
        for c in range(sets.ASCII_LIMIT):
            self.of_mask.setdefault(self._mask(c), c)
        others = _FIRST_OTHER
        for mask in self._masks:
            if mask not in self.of_mask:
                self.of_mask[mask] = others
                others += 1

    def _mask(self, code_point: int) -> int:
        return self._masks[bisect_right(self._starts, code_point) - 1]

    def __missing__(self, code_point: int) -> int:
        representative = self.of_mask[self._mask(code_point)]
        if len(self) < _MAX_REMEMBERED:
            self[code_point] = representative
        return representative


class Pattern:
    """A compiled pattern. Safe to share between threads.

    Raises:
        PatternError: the pattern isn't valid or can't be translated exactly.
    """

    __slots__ = ("_ascii", "_build", "_classes", "_unicode", "nullable")

    def __init__(self, build: Callable[[bool], Node]) -> None:
        """``build(ascii_only)`` gives the nodes with sets of ASCII or of all code points."""
        node = build(True)
        self._build = build
        self.nullable = node.widths()[0] == 0
        self._ascii = re.compile(_emit(node, _ascii_class))
        self._classes: Classes | None = None
        self._unicode = self._ascii

    @staticmethod
    def from_source(source: str) -> Pattern:
        """The pattern that Oniguruma would compile from ``source``."""
        return _from_source(source)

    @staticmethod
    def from_literal(text: str) -> Pattern:
        """A pattern that matches ``text``."""

        def build(ascii_only: bool) -> Node:
            universe = ASCII if ascii_only else UNICODE
            return Concat([Chars(universe.clip(sets.from_text(c))) for c in text])

        return Pattern(build)

    def pieces(self, text: str) -> list[str] | None:
        """The matches in order if together they are the whole text, else None."""
        if self.nullable:
            return None
        if text.isascii():
            found: list[str] = self._ascii.findall(text)
            return found if sum(map(len, found)) == len(text) else None
        found = self._findall_unicode(text)
        ends = list(accumulate(map(len, found)))
        if not ends or ends[-1] != len(text):
            return None
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def matches(self, text: str) -> list[str]:
        """The texts of all non-empty matches, in order."""
        if text.isascii() and not self.nullable:
            found: list[str] = self._ascii.findall(text)
            return found
        pieces = self.pieces(text)
        return [text[a:b] for a, b in self.spans(text) if a < b] if pieces is None else pieces

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The spans of all matches, in order, empty ones as Oniguruma's iteration yields them."""
        subject, pattern = text, self._ascii
        if not text.isascii():
            subject, pattern = self._translated(text), self._unicode
        if not self.nullable:
            return [match.span() for match in pattern.finditer(subject)]
        return _spans_with_empty(pattern, subject)

    def replace(self, text: str, content: str) -> str:
        """The text with ``content``, taken literally, for every match."""
        if text.isascii() and not self.nullable:
            return self._ascii.sub(lambda _: content, text)
        parts: list[str] = []
        position = 0
        for start, end in self.spans(text):
            parts += (text[position:start], content)
            position = end
        return "".join([*parts, text[position:]])

    def found_in(self, text: str) -> bool:
        """Whether there is a match."""
        if text.isascii():
            return self._ascii.search(text) is not None
        subject = self._translated(text)
        return self._unicode.search(subject) is not None

    def _findall_unicode(self, text: str) -> list[str]:
        subject = self._translated(text)
        found: list[str] = self._unicode.findall(subject)
        return found

    def _translated(self, text: str) -> str:
        if self._classes is None:
            self._compile_unicode()
        assert self._classes is not None
        return text.translate(self._classes)

    def _compile_unicode(self) -> None:
        node = self._build(False)
        points = sorted({n.points for n in walk(node) if isinstance(n, Chars)})
        classes = Classes(sets.partition(points))
        bits = {p: 1 << i for i, p in enumerate(points)}
        ascii_of = {p: _members(sets.clip(p, sets.ASCII_LIMIT)) for p in points}

        def members(p: CodePoints) -> str:
            others = [
                c for mask, c in classes.of_mask.items() if c >= _FIRST_OTHER and mask & bits[p]
            ]
            return ascii_of[p] + "".join(map(chr, sorted(others)))

        self._unicode = re.compile(_emit(node, members))
        self._classes = classes


@lru_cache(maxsize=64)
def _from_source(source: str) -> Pattern:
    return Pattern(lambda ascii_only: parse(source, ASCII if ascii_only else UNICODE))


def _spans_with_empty(pattern: re.Pattern[str], subject: str) -> list[tuple[int, int]]:
    """Oniguruma's iteration: no empty match right behind the match before it."""
    spans = []
    position, last_end = 0, -1
    while position <= len(subject):
        match = pattern.search(subject, position)
        if match is None:
            break
        start, end = match.span()
        if start == end == last_end:
            position += 1
            continue
        spans.append((start, end))
        position = last_end = end
    return spans


def _members(points: CodePoints) -> str:
    return "".join(
        chr(c) for a, b in zip(points[::2], points[1::2], strict=True) for c in range(a, b)
    )


def _ascii_class(points: CodePoints) -> str:
    return _members(points)


# Writing the nodes in the syntax of ``re`` --------------------------------------------------------


def _emit(node: Node, members: Callable[[CodePoints], str]) -> str:
    """The node as a pattern of ``re`` over the characters that ``members`` gives for a set."""
    if isinstance(node, Chars):
        return _char_class(members(node.points))
    if isinstance(node, Concat):
        return "".join(
            f"(?:{_emit(item, members)})" if isinstance(item, Choice) else _emit(item, members)
            for item in node.items
        )
    if isinstance(node, Choice):
        return "|".join(_emit(item, members) for item in node.items)
    if isinstance(node, Repeat):
        body = _emit(node.body, members)
        single = isinstance(node.body, Chars | Atomic)
        return f"{body if single else f'(?:{body})'}{_bounds(node)}{node.mode}"
    if isinstance(node, Anchor):
        return f"(?:{_emit(node.body, members)})"
    if isinstance(node, Atomic):
        return f"(?>{_emit(node.body, members)})"
    if isinstance(node, Assertion):
        return {"start": r"\A", "end": r"\Z"}[node.kind]
    if isinstance(node, Look):
        return _look(node, members)
    raise TypeError(type(node).__name__)


def _bounds(node: Repeat) -> str:
    short = {(0, UNBOUNDED): "*", (1, UNBOUNDED): "+", (0, 1): "?"}.get((node.low, node.high))
    if short is not None:
        return short
    high = "" if node.high == UNBOUNDED else str(node.high)
    return f"{{{node.low},{high}}}"


def _look(node: Look, members: Callable[[CodePoints], str]) -> str:
    sign = "!" if node.negative else "="
    if node.ahead:
        return f"(?{sign}{_emit(node.body, members)})"
    # Each alternative of a look-behind needs a width of its own in ``re``.
    options = node.body.items if isinstance(node.body, Choice) else [node.body]
    for option in options:
        low, high = option.widths()
        if low != high:
            raise PatternError("a look-behind of variable length is not supported")
    looks = [f"(?<{sign}{_emit(option, members)})" for option in options]
    return "".join(looks) if node.negative else f"(?:{'|'.join(looks)})"


def _char_class(members: str) -> str:
    if not members:
        return "(?!)"
    if len(members) == 1:
        return re.escape(members)
    parts = []
    position = 0
    while position < len(members):
        end = position
        while end + 1 < len(members) and ord(members[end + 1]) == ord(members[end]) + 1:
            end += 1
        first, last = _class_char(members[position]), _class_char(members[end])
        parts.append(first if position == end else f"{first}-{last}")
        position = end + 1
    return f"[{''.join(parts)}]"


def _class_char(char: str) -> str:
    return "\\" + char if char in _SPECIAL else char
