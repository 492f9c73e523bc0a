"""Splits one after the other as one, where that gives the same pieces.

Files often isolate runs of digits or of other characters before they cut by a pattern. What the
pattern sees then are pieces without such characters, each as if it was a text, and pieces of only
such characters. The same comes of one pattern in whose classes these aren't, next to one for them.
"""

from __future__ import annotations

from pygpukit.tokenizer.errors import PatternError
from pygpukit.tokenizer.onig import Literal, Pattern
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
)
from pygpukit.tokenizer.pre_tokenizers.base import Cutter
from pygpukit.tokenizer.pre_tokenizers.splits import Split
from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pygpukit.tokenizer.pre_tokenizers.base import PreTokenizer
    from pygpukit.tokenizer.unicode.sets import CodePoints


class FusedSplits:
    """Steps that isolate runs of characters, and a split by a pattern behind them."""

    __slots__ = ("_isolating", "_last", "_pattern")

    def __init__(self, isolating: Sequence[Cutter], last: Split) -> None:
        """Put the patterns together.

        Raises:
            PatternError: that can't be one pattern.
        """
        if last.pattern.nullable or isinstance(last.pattern, Literal):
            raise PatternError("a pattern with empty matches, or a mere text")
        self._isolating = isolating
        self._last = last
        self._pattern: Pattern | None = Pattern(self._node)

    def split(self, pieces: list[str]) -> list[str]:
        """Cut every piece further, as the steps do one after the other."""
        if self._pattern is not None:
            try:
                found = self._pattern.covering(pieces)
            except PatternError:
                # It could for ASCII, but not for all of Unicode.
                found = self._pattern = None
            if found is not None:
                return found
        for step in self._isolating:
            pieces = step.split(pieces)
        return self._last.split(pieces)

    def _node(self, ascii_only: bool) -> Node:
        pattern = self._last.pattern.node(ascii_only)
        runs: list[Node] = []
        cut: list[CodePoints] = []
        isolated: CodePoints = ()
        for step in self._isolating:
            run = step.isolated_run(ascii_only)
            chars = run.body if isinstance(run, Repeat) else run
            if run is None or not isinstance(chars, Chars):
                raise PatternError("a pattern that matches more than runs of a class")
            points = chars.points
            if sets.intersection(points, isolated):
                raise PatternError("steps that isolate the same characters")
            isolated = sets.union(points, isolated)
            if run.widths() == (1, 1) or not _can_match(pattern, points):
                runs.append(run)
            elif run.widths() == (1, UNBOUNDED):
                cut.append(points)
            else:
                raise PatternError("a pattern that could cut a part of a run")
        # What comes most often is tried first. One character can begin only one of these, or else
        # what is between matches, which is tried last.
        limit = sets.ASCII_LIMIT if ascii_only else sets.LIMIT
        cut.insert(0, sets.complement(isolated, limit))
        matches = [_within(pattern, points) for points in cut]
        between = [_between(match, points) for match, points in zip(matches, cut, strict=True)]
        return Choice([matches[0], *runs, *matches[1:], *between])


def fused(
    steps: Sequence[PreTokenizer | None],
) -> tuple[int, Callable[[list[str]], list[str]] | None]:
    """How many steps, from the first on, can be done as one, and what does that."""
    count = 0
    isolating: list[Cutter] = []
    for step in steps:
        count += 1
        if isinstance(step, Cutter) and step.isolated_run(True) is not None:
            isolating.append(step)
            continue
        if not isolating or not isinstance(step, Split) or step.behavior != "Isolated":
            break
        try:
            return count, FusedSplits(isolating, step).split
        except PatternError:
            break
    return 0, None


def _can_match(node: Node, points: CodePoints) -> bool:
    """Whether the node may match characters of a set only; False where it surely doesn't."""
    if isinstance(node, Chars):
        return bool(sets.intersection(node.points, points))
    if isinstance(node, Choice):
        return any(_can_match(item, points) for item in node.items)
    if isinstance(node, Repeat):
        return node.low == 0 or _can_match(node.body, points)
    if isinstance(node, Concat | Atomic):
        return all(_can_match(item, points) for item in node.children())
    return True


def _between(match: Node, points: CodePoints) -> Node:
    """Characters of a set that no match begins with."""
    no_match = Look(match, ahead=True, negative=True)
    return Repeat(Concat([no_match, Chars(points)]), 1, UNBOUNDED)


def _within(node: Node, points: CodePoints) -> Node:
    """The node for runs of characters of a set, to which these are all of the text."""
    if isinstance(node, Chars):
        return Chars(sets.intersection(node.points, points))
    if isinstance(node, Assertion):
        return Look(Chars(points), ahead=node.kind == "end", negative=True)
    inner = [_within(child, points) for child in node.children()]
    if isinstance(node, Choice):
        return Choice([item for item in inner if _can_match(item, points)] or [Chars(())])
    if isinstance(node, Concat):
        return Concat(inner)
    (body,) = inner
    if isinstance(node, Repeat):
        return Repeat(body, node.low, node.high, node.mode)
    if isinstance(node, Look):
        return Look(body, ahead=node.ahead, negative=node.negative)
    if isinstance(node, Anchor | Atomic):
        return type(node)(body)
    raise TypeError(type(node).__name__)
