"""Matching: an Oniguruma pattern on the standard library's ``re``, exact and fast.

A pattern only ever asks of a character which of its sets it belongs to. So the code points fall
into a few classes, the members of one being interchangeable, and it is enough to compile the
pattern for one representative of each class and to match it on the text with every character
replaced by its representative; the spans are those of the text. ASCII characters represent
themselves, so ASCII text needs no replacing, and for it a pattern is compiled that knows nothing of
the rest. Both are byte-sized alphabets, on which ``re`` is fastest.

For a long text, replacing every character takes longer than matching: for those a pattern is
compiled that knows all of the Basic Multilingual Plane, which takes some 20 ms, and only the few
characters outside of it are replaced.

Many texts are matched as one, joined by barriers. A barrier is a character that is in no set of the
pattern compiled for that, so to it a text ends there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache, lru_cache
from itertools import accumulate, chain, compress, islice, pairwise

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
from pygpukit.tokenizer.possessive import possessive
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.properties import ASCII, UNICODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pygpukit.tokenizer.unicode.sets import CodePoints

# A representative outside of ASCII is taken from here on.
_FIRST_OTHER = 0x80
_MAX_REMEMBERED = 1 << 16
_SPECIAL = frozenset("\\]^-[&~|")
_LONG_TEXT = 1 << 17
_SAMPLE = 256
_BASIC_LIMIT = 0x10000
_SUPPLEMENTARY = re.compile("[\U00010000-\U0010ffff]+")
_BARRIER = "\0"
_BARRIER_SET = (0, 1)
_NOTHING = re.compile("(?!)")


class Classes(dict[int, int]):
    """For ``str.translate``: a code point to the representative of its class, found when asked.

    Code points below ``limit`` represent themselves. The class of a mask (bit i: membership in the
    i-th set) that has none of those is represented by a code point from ``limit`` on.
    """

    def __init__(self, cuts: list[tuple[int, int]], limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._starts = [start for start, _ in cuts]
        self._masks = [mask for _, mask in cuts]
        self.of_mask: dict[int, int] = {}
        for start, mask in cuts:
            if start < limit:
                self.of_mask.setdefault(mask, start)
        others = limit
        for mask in self._masks:
            if mask not in self.of_mask:
                self.of_mask[mask] = others
                others += 1

    def __missing__(self, code_point: int) -> int:
        representative = code_point
        if code_point >= self.limit:
            mask = self._masks[bisect_right(self._starts, code_point) - 1]
            representative = self.of_mask[mask]
        if len(self) < _MAX_REMEMBERED:
            self[code_point] = representative
        return representative

    def members(self, points: CodePoints, bit: int) -> CodePoints:
        """The representatives of the members of the set that ``bit`` stands for."""
        others = [c for mask, c in self.of_mask.items() if c >= self.limit and mask & bit]
        return sets.union(sets.clip(points, self.limit), sets.from_ranges((c, c) for c in others))


class Pattern:
    """A compiled pattern. Safe to share between threads.

    Raises:
        PatternError: the pattern isn't valid or can't be translated exactly.
    """

    __slots__ = ("_build", "_compiled", "_covers", "nullable")

    def __init__(self, build: Callable[[bool], Node]) -> None:
        """``build(ascii_only)`` gives the nodes with sets of ASCII or of all code points."""
        node = build(True)
        self._build = build
        self.nullable = node.widths()[0] == 0
        # Whether it is worth to try if the matches are the whole text.
        self._covers = True
        # By the limit and whether there are barriers; others are compiled when first needed.
        ascii_form = _Compiled(node, sets.ASCII_LIMIT, barred=False)
        self._compiled = {(sets.ASCII_LIMIT, False, True): ascii_form}

    @staticmethod
    def from_source(source: str) -> Pattern:
        """The pattern that Oniguruma would compile from ``source``."""
        return _from_source(source)

    @staticmethod
    def from_literal(text: str) -> Pattern:
        """A pattern that matches ``text``."""
        return Literal(text)

    def node(self, ascii_only: bool) -> Node:
        """The pattern's nodes, with sets of ASCII or of all code points."""
        return self._build(ascii_only)

    def isolated(self, texts: Sequence[str]) -> list[str] | None:
        """The matches and what is between them, in order, of one text after the other.

        None where matches may be empty, or where the texts can't be matched as one.
        """
        text = _joined(texts)
        if self.nullable or text is None:
            return None
        barred = len(texts) > 1
        subject, pattern = self._subject(text, barred=barred)
        found = self._covering(text, subject, pattern, len(texts))
        if found is not None:
            return found
        parts = list(filter(None, _captured(pattern, barred).split(subject)))
        if subject is not text:
            parts = _cut_alike(text, parts)
        return list(filter(_BARRIER.__ne__, parts)) if barred else parts

    def covering(self, texts: Sequence[str]) -> list[str] | None:
        """The same where nothing is between the matches; None where there is, or could be."""
        text = _joined(texts)
        if self.nullable or text is None or not self._covers:
            return None
        subject, pattern = self._subject(text, barred=len(texts) > 1)
        return self._covering(text, subject, pattern, len(texts))

    def _covering(
        self, text: str, subject: str, pattern: re.Pattern[str], count: int
    ) -> list[str] | None:
        """The matches in ``count`` texts with barriers between, if they are the whole texts."""
        tries = self._covers and (subject is text or count == 1)
        if not tries or not _begins_covered(subject, pattern):
            return None
        found: list[str] = pattern.findall(subject)
        if sum(map(len, found)) + count - 1 == len(text):
            return found if subject is text else _cut_alike(text, found)
        # Of most patterns the matches are the whole text.
        self._covers = False
        return None

    def matches(self, texts: Sequence[str]) -> list[str]:
        """The texts of all non-empty matches, in order, in one text after the other."""
        text = _joined(texts)
        if self.nullable or text is None:
            return [each[a:b] for each in texts for a, b in self.spans(each) if a < b]
        subject, pattern = self._subject(text, barred=len(texts) > 1)
        if subject is text:
            found: list[str] = pattern.findall(text)
            return found
        return [text[match.start() : match.end()] for match in pattern.finditer(subject)]

    def located_matches(self, text: str) -> tuple[list[str], list[int]]:
        """The texts of all non-empty matches, in order, and the gaps in front of them."""
        if self.nullable:
            spans = [span for span in self.spans(text) if span[0] < span[1]]
            ends = [0, *(end for _, end in spans)]
            gaps = [start - end for (start, _), end in zip(spans, ends, strict=False)]
            return [text[a:b] for a, b in spans], gaps
        subject, pattern = self._subject(text)
        parts = _captured(pattern, False).split(subject)
        # Every other part is a match.
        gaps = list(map(len, parts[:-1:2]))
        if subject is text:
            return parts[1::2], gaps
        bounds = pairwise(accumulate(map(len, parts), initial=0))
        return [text[a:b] for a, b in islice(bounds, 1, None, 2)], gaps

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The spans of all matches, in order, empty ones as Oniguruma's iteration yields them."""
        subject, pattern = self._subject(text)
        if not self.nullable:
            return [match.span() for match in pattern.finditer(subject)]
        return _spans_with_empty(pattern, subject)

    def spans_unlike(self, text: str, content: str) -> list[tuple[int, int]]:
        """The spans of the matches that aren't ``content`` already."""
        if self.nullable:
            return [(start, end) for start, end in self.spans(text) if text[start:end] != content]
        matches, gaps = self.located_matches(text)
        steps = chain.from_iterable(zip(gaps, map(len, matches), strict=True))
        bounds = list(accumulate(steps))
        spans = zip(bounds[::2], bounds[1::2], strict=True)
        return list(compress(spans, map(content.__ne__, matches)))

    def replace(self, text: str, content: str) -> str:
        """The text with ``content``, taken literally, for every match."""
        if not self.nullable:
            subject, pattern = self._subject(text)
            if subject is text:
                return pattern.sub(lambda _: content, text)
        parts: list[str] = []
        position = 0
        for start, end in self.spans(text):
            parts += (text[position:start], content)
            position = end
        return "".join([*parts, text[position:]])

    def _subject(self, text: str, *, barred: bool = False) -> tuple[str, re.Pattern[str]]:
        """What to match in the place of ``text``, perhaps itself, and the pattern for that."""
        if text.isascii():
            return text, self._form(sets.ASCII_LIMIT, barred, True).pattern
        if len(text) < _LONG_TEXT:
            form = self._form(sets.ASCII_LIMIT, barred, False)
            return text.translate(form.classes), form.pattern
        form = self._form(_BASIC_LIMIT, barred, False)
        # Counting them takes a tenth of the time of a search.
        if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text):
            return text, form.pattern
        classes = form.classes
        subject = _SUPPLEMENTARY.sub(lambda match: match.group().translate(classes), text)
        return (text if subject == text else subject), form.pattern

    def _form(self, limit: int, barred: bool, ascii_only: bool) -> _Compiled:
        form = self._compiled.get((limit, barred, ascii_only))
        if form is None:
            form = _Compiled(self._build(ascii_only), limit, barred=barred)
            self._compiled[limit, barred, ascii_only] = form
        return form


class Literal(Pattern):
    """A pattern that matches just one text, in which no character stands for others."""

    __slots__ = ("_pattern", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.nullable = not text
        self._covers = False
        self._pattern = re.compile(re.escape(text))

    def replace(self, text: str, content: str) -> str:
        return super().replace(text, content) if self.nullable else text.replace(self.text, content)

    def _subject(self, text: str, *, barred: bool = False) -> tuple[str, re.Pattern[str]]:
        return text, _NOTHING if barred and _BARRIER in self.text else self._pattern


class _Compiled:
    """A pattern over the code points below a limit and representatives of the others."""

    __slots__ = ("classes", "pattern")

    def __init__(self, node: Node, limit: int, *, barred: bool) -> None:
        points = sorted({n.points for n in walk(node) if isinstance(n, Chars)} | {_BARRIER_SET})
        bits = {p: 1 << i for i, p in enumerate(points)}
        self.classes = classes = Classes(sets.partition(points), limit)

        @cache
        def char_class(points: CodePoints) -> str:
            found = classes.members(points, bits[points])
            return _char_class(sets.without_first(found) if barred else found)

        self.pattern = re.compile(_emit(node, _Syntax(char_class, barred=barred)))


def _joined(texts: Sequence[str]) -> str | None:
    """The texts with barriers between; None where one has such a character itself."""
    if len(texts) == 1:
        return texts[0]
    text = _BARRIER.join(texts)
    return text if text.count(_BARRIER) == len(texts) - 1 else None


def _begins_covered(subject: str, pattern: re.Pattern[str]) -> bool:
    """Whether it is worth to try if the matches are the whole text, but for barriers."""
    if len(subject) < 16 * _SAMPLE:
        return True
    sample = subject[:_SAMPLE]
    return sum(map(len, pattern.findall(sample))) >= len(sample) - sample.count(_BARRIER)


def _cut_alike(text: str, parts: list[str]) -> list[str]:
    """The text in parts as long as these."""
    return [text[a:b] for a, b in pairwise(accumulate(map(len, parts), initial=0))]


@lru_cache(maxsize=64)
def _captured(pattern: re.Pattern[str], barred: bool) -> re.Pattern[str]:
    """The pattern, and barriers, as a group, so that splitting by it keeps the matches."""
    return re.compile(f"({pattern.pattern}|{_BARRIER})" if barred else f"({pattern.pattern})")


@lru_cache(maxsize=64)
def _from_source(source: str) -> Pattern:
    # Literals, all that some files have, don't need it.
    from pygpukit.tokenizer.onig.parser import parse

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


# Writing the nodes in the syntax of ``re`` --------------------------------------------------------


class _Syntax:
    """How sets and the ends of the text are written."""

    __slots__ = ("assertions", "char_class")

    def __init__(self, char_class: Callable[[CodePoints], str], *, barred: bool) -> None:
        self.char_class = char_class
        self.assertions = {"start": r"\A", "end": r"\Z"}
        if barred:
            self.assertions = {"start": r"(?:\A|(?<=\0))", "end": r"(?=\0|\Z)"}


def _emit(node: Node, syntax: _Syntax) -> str:
    """The node as a pattern of ``re``."""
    if isinstance(node, Chars):
        return syntax.char_class(node.points)
    if isinstance(node, Concat):
        return "".join(
            f"(?:{_emit(item, syntax)})" if isinstance(item, Choice) else _emit(item, syntax)
            for item in node.items
        )
    if isinstance(node, Choice):
        return "|".join(_emit(item, syntax) for item in node.items)
    if isinstance(node, Repeat):
        return _repeat(node, _emit(node.body, syntax))
    if isinstance(node, Anchor):
        return f"(?:{_emit(node.body, syntax)})"
    if isinstance(node, Atomic):
        return f"(?>{_emit(node.body, syntax)})"
    if isinstance(node, Assertion):
        return syntax.assertions[node.kind]
    if isinstance(node, Look):
        return _look(node, syntax)
    raise TypeError(type(node).__name__)


def _repeat(node: Repeat, body: str) -> str:
    group = body if isinstance(node.body, Chars | Atomic) else f"(?:{body})"
    if node.mode == "+" and not isinstance(node.body, Chars):
        return possessive(group, _bounds(node))
    if group != body and (node.low, node.high, node.mode) == (0, 1, ""):
        # It is the same, and faster.
        return f"(?:{body}|)"
    return f"{group}{_bounds(node)}{node.mode}"


def _bounds(node: Repeat) -> str:
    short = {(0, UNBOUNDED): "*", (1, UNBOUNDED): "+", (0, 1): "?"}.get((node.low, node.high))
    if short is not None:
        return short
    high = "" if node.high == UNBOUNDED else str(node.high)
    return f"{{{node.low},{high}}}"


def _look(node: Look, syntax: _Syntax) -> str:
    sign = "!" if node.negative else "="
    if node.ahead:
        return f"(?{sign}{_emit(node.body, syntax)})"
    # Each alternative of a look-behind needs a width of its own in ``re``.
    options = node.body.items if isinstance(node.body, Choice) else [node.body]
    for option in options:
        low, high = option.widths()
        if low != high:
            raise PatternError("a look-behind of variable length is not supported")
    looks = [f"(?<{sign}{_emit(option, syntax)})" for option in options]
    return "".join(looks) if node.negative else f"(?:{'|'.join(looks)})"


def _char_class(points: CodePoints) -> str:
    if not points:
        return "(?!)"
    if len(points) == 2 and points[0] + 1 == points[1]:
        return re.escape(chr(points[0]))
    parts = []
    for start, end in zip(points[::2], points[1::2], strict=True):
        first, last = _class_char(chr(start)), _class_char(chr(end - 1))
        parts.append(first if start + 1 == end else f"{first}-{last}")
    return f"[{''.join(parts)}]"


def _class_char(char: str) -> str:
    return "\\" + char if char in _SPECIAL else char
