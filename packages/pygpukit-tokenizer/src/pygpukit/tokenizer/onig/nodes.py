"""The nodes of a parsed regular expression.

Every character test is a :class:`Chars` with an explicit set, so nothing is left for the matching
engine's own idea of Unicode.
"""

from __future__ import annotations

from itertools import dropwhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pygpukit.tokenizer.unicode.sets import CodePoints

UNBOUNDED = -1


class Node:
    """A part of a pattern."""

    __slots__ = ()

    def children(self) -> Sequence[Node]:
        """The nodes directly inside."""
        return ()

    def widths(self) -> tuple[int, int]:
        """The least and the greatest length of a match (``UNBOUNDED`` for no bound)."""
        return 0, 0

    def empties(self) -> tuple[bool, bool]:
        """How a node that may match nothing does so: only after all that is longer, everywhere."""
        return self.widths()[1] == 0, False


class Chars(Node):
    """One character out of a set. ``literal`` is set where the pattern wrote that character."""

    __slots__ = ("literal", "points")

    def __init__(self, points: CodePoints, literal: str = "") -> None:
        self.points = points
        self.literal = literal

    def widths(self) -> tuple[int, int]:
        return 1, 1


class Assertion(Node):
    """The absolute ``start`` or ``end`` of the text."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Anchor(Node):
    """A place in the text, such as a word boundary, spelled out in ``body``."""

    __slots__ = ("body",)

    def __init__(self, body: Node) -> None:
        self.body = body

    def children(self) -> Sequence[Node]:
        return (self.body,)


class Concat(Node):
    """Nodes one after the other."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Node]) -> None:
        self.items = items

    def children(self) -> Sequence[Node]:
        return self.items

    def widths(self) -> tuple[int, int]:
        pairs = [item.widths() for item in self.items]
        bounded = all(high != UNBOUNDED for _, high in pairs)
        return sum(low for low, _ in pairs), sum(h for _, h in pairs) if bounded else UNBOUNDED

    def empties(self) -> tuple[bool, bool]:
        each = [item.empties() for item in self.items]
        return all(last for last, _ in each), all(everywhere for _, everywhere in each)


class Text(Concat):
    """Literal characters one after the other, without regard to case.

    ``items`` are the same with alternatives where several characters equal a single one.
    """

    __slots__ = ("literals",)

    def __init__(self, items: Sequence[Node], literals: Sequence[Chars]) -> None:
        super().__init__(items)
        self.literals = literals


class Choice(Node):
    """Alternatives, tried in order."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Node]) -> None:
        self.items = items

    def children(self) -> Sequence[Node]:
        return self.items

    def widths(self) -> tuple[int, int]:
        pairs = [item.widths() for item in self.items]
        bounded = all(high != UNBOUNDED for _, high in pairs)
        return min(low for low, _ in pairs), max(h for _, h in pairs) if bounded else UNBOUNDED

    def empties(self) -> tuple[bool, bool]:
        rest = list(dropwhile(lambda item: item.widths()[0] > 0, self.items))
        longer = any(item.widths()[1] != 0 for item in rest[1:])
        each = [item.empties() for item in rest if item.widths()[0] == 0]
        return not longer and each[0][0], any(everywhere for _, everywhere in each)


class Repeat(Node):
    """A node ``low`` to ``high`` times; ``mode`` is "" (greedy), "?" (lazy) or "+" (possessive)."""

    __slots__ = ("body", "high", "low", "mode")

    def __init__(self, body: Node, low: int, high: int, mode: str = "") -> None:
        self.body = body
        self.low = low
        self.high = high
        self.mode = mode

    def children(self) -> Sequence[Node]:
        return (self.body,)

    def widths(self) -> tuple[int, int]:
        low, high = self.body.widths()
        unbounded = self.high == UNBOUNDED or high == UNBOUNDED
        return low * self.low, UNBOUNDED if unbounded else high * self.high

    def empties(self) -> tuple[bool, bool]:
        if self.mode == "+":
            # Just one match is tried.
            return True, False
        nullable = self.body.widths()[0] == 0
        last, everywhere = self.body.empties() if nullable else (True, False)
        return last and not self.mode, everywhere or self.low == 0


class Atomic(Node):
    """``(?>...)``: no backtracking into it."""

    __slots__ = ("body",)

    def __init__(self, body: Node) -> None:
        self.body = body

    def children(self) -> Sequence[Node]:
        return (self.body,)

    def widths(self) -> tuple[int, int]:
        return self.body.widths()

    def empties(self) -> tuple[bool, bool]:
        # Just one match is tried.
        return True, False


class Look(Node):
    """A look-around."""

    __slots__ = ("ahead", "body", "negative")

    def __init__(self, body: Node, *, ahead: bool, negative: bool = False) -> None:
        self.body = body
        self.ahead = ahead
        self.negative = negative

    def children(self) -> Sequence[Node]:
        return (self.body,)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    for child in node.children():
        yield from walk(child)
