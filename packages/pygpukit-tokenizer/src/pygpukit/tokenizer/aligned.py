"""Text that remembers which characters of the original each of its characters came from."""

from __future__ import annotations

import re
import sys
from array import array
from functools import cache
from itertools import chain, repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Span = tuple[int, int]
    Change = tuple[str, int]
    Edit = tuple[int, int, Iterable[Change]]


_BLOCK = 4096
# Finding the characters that change beats looking at each one in texts so long that grow by less
# than one character in so many.
_LONG = 256
_MANY = 16


class AlignedText:
    """A stretch of text on its way through normalizers and pre-tokenizers.

    ``text[i]`` came from the original's characters ``starts[i]`` to ``ends[i]``. These are ranges
    while the text is an untouched stretch of the original, which most is, else arrays. ``origin``
    is where the stretch begins in the original.
    """

    __slots__ = ("ends", "origin", "starts", "text")

    def __init__(
        self,
        text: str,
        origin: int = 0,
        starts: Sequence[int] | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        self.text = text
        self.origin = origin
        if starts is None:
            starts = range(origin, origin + len(text))
            ends = range(origin + 1, origin + len(text) + 1)
        self.starts: Sequence[int] = starts
        self.ends: Sequence[int] = ends

    def is_untouched(self) -> bool:
        """Whether this is a stretch of the original as it is."""
        return isinstance(self.starts, range)

    def comes_from_nowhere(self) -> bool:
        """Whether nothing of the original is behind this text, which isn't empty."""
        return self.starts[0] == self.ends[-1]

    def slice(self, start: int, end: int) -> AlignedText:
        """A stretch of this text."""
        starts = self.starts[start:end]
        origin = starts[0] if starts else self.origin
        return AlignedText(self.text[start:end], origin, starts, self.ends[start:end])

    def original(self, start: int, end: int) -> Span:
        """The range of the original behind ``text[start:end]``, which must not be empty."""
        return self.starts[start], self.ends[end - 1]

    def offsets(self, starts: Iterable[int], ends: Iterable[int]) -> Iterator[Span]:
        """The ranges of the original behind stretches of this text, none of them empty."""
        if self.is_untouched():
            if self.origin:
                # To add a constant is faster than to look it up in a range.
                shift = self.origin.__add__
                starts, ends = map(shift, starts), map(shift, ends)
            return zip(starts, ends, strict=True)
        # By the places behind the characters.
        shifted = array("q", (0,))
        _extend(shifted, self.ends)
        begins = map(self.starts.__getitem__, starts)
        return zip(begins, map(shifted.__getitem__, ends), strict=True)

    def mapped(self, text: str) -> AlignedText:
        """The text with every character replaced by one other."""
        return AlignedText(text, self.origin, self.starts, self.ends)

    def edited(self, edits: Iterable[Edit]) -> AlignedText:
        """The text with some stretches, in order, rewritten character by character.

        An edit is the start and the end of a stretch and its changes: every new character with 0
        where it replaces the next old one, 1 where it is inserted (it then shares the span of the
        old character before it), and -n where it replaces one and n more are dropped.
        """
        result = _Builder(self)
        position = 0
        for start, end, changes in edits:
            result.copy(position, start)
            old = start
            for char, change in changes:
                if change > 0:
                    result.add(char, old - 1)
                elif change == 0:
                    result.replace(char, old)
                    old += 1
                else:
                    result.add(char, old)
                    old += 1 - change
            position = end
        result.copy(position, len(self.text))
        return result.build()

    def expanded(self, text: str, find: Callable[[str], str]) -> AlignedText:
        """This text with ``find(char)`` for every character, together ``text``."""
        sizes = {char: len(find(char)) for char in set(self.text)}
        resized = "".join([char for char, size in sizes.items() if size != 1])
        if not resized:
            return self.mapped(text)
        if len(self.text) < _LONG or _MANY * (len(text) - len(self.text)) > len(self.text):
            counts = [sizes[char] for char in self.text]
            starts, ends = (
                array("q", chain.from_iterable(map(repeat, places, counts)))
                for places in (self.starts, self.ends)
            )
            return AlignedText(text, self.origin, starts, ends)
        starts, ends = array("q"), array("q")
        position = 0
        for match in re.finditer(f"[{re.escape(resized)}]", self.text):
            i = match.start()
            count = sizes[match.group()]
            _extend(starts, self.starts[position:i])
            _extend(ends, self.ends[position:i])
            starts.extend(repeat(self.starts[i], count))
            ends.extend(repeat(self.ends[i], count))
            position = i + 1
        _extend(starts, self.starts[position:])
        _extend(ends, self.ends[position:])
        return AlignedText(text, self.origin, starts, ends)

    def prepended(self, prefix: str) -> AlignedText:
        """The text, which isn't empty, behind ``prefix``, which gets its first character's span."""
        starts, ends = array("q"), array("q")
        _extend(starts, self.starts)
        _extend(ends, self.ends)
        if prefix:
            count = len(prefix)
            starts = array("q", starts[:1] * count) + starts
            ends = array("q", ends[:1] * count) + ends
        else:
            # As in the reference: the first character counts as inserted before everything.
            starts[0] = ends[0] = self.origin
        return AlignedText(prefix + self.text, self.origin, starts, ends)

    def substituted(self, matches: Iterable[Span], content: str) -> AlignedText:
        """The text with ``content`` for each match, whose last character's span it takes over."""
        result = _Builder(self)
        position = 0
        for start, end in matches:
            result.copy(position, start)
            if len(content) == 1 and start < end:
                result.replace(content, end - 1)
            else:
                for char in content:
                    result.add(char, end - 1)
            position = end
        result.copy(position, len(self.text))
        return result.build()


class _Builder:
    """Puts a text together from stretches and characters of another one."""

    __slots__ = ("_begin", "_end", "_ends", "_old", "_starts", "_text")

    def __init__(self, old: AlignedText) -> None:
        self._old = old
        self._text: list[str] = []
        self._starts = array("q")
        self._ends = array("q")
        # The last stretch of old spans, whose copying waits for its end.
        self._begin = self._end = 0

    def copy(self, start: int, end: int) -> None:
        """Append a stretch as it is."""
        if start < end:
            self._text.append(self._old.text[start:end])
            self._take(start, end)

    def replace(self, char: str, index: int) -> None:
        """Append a character in the place of an old one."""
        self._text.append(char)
        self._take(index, index + 1)

    def add(self, char: str, index: int) -> None:
        """Append a character with the span of an old one; before the first, an empty one."""
        self._take(0, 0)
        old = self._old
        self._text.append(char)
        self._starts.append(old.starts[index] if index >= 0 else old.origin)
        self._ends.append(old.ends[index] if index >= 0 else old.origin)

    def build(self) -> AlignedText:
        """What was put together."""
        self._take(0, 0)
        return AlignedText("".join(self._text), self._old.origin, self._starts, self._ends)

    def _take(self, start: int, end: int) -> None:
        """Append the spans of a stretch, now or with the next one."""
        if start != self._end or start == end:
            _extend(self._starts, self._old.starts[self._begin : self._end])
            _extend(self._ends, self._old.ends[self._begin : self._end])
            self._begin = start
        self._end = end


def _extend(target: array[int], source: Sequence[int]) -> None:
    """Append a slice of ``starts`` or ``ends``."""
    if not isinstance(source, range) or len(source) < _BLOCK:
        target.extend(source)
        return
    # Long ranges are made in blocks, as the bytes of one big integer each: that is ten times as
    # fast as one by one.
    ones, counting = _blocks()
    length = len(target) + len(source)
    for first in source[::_BLOCK]:
        block = counting + first * ones
        target.frombytes(block.to_bytes(8 * _BLOCK, sys.byteorder))
    del target[length:]


@cache
def _blocks() -> tuple[int, int]:
    """Arrays of ones and of 0, 1, 2, ... as integers."""
    arrays = array("q", repeat(1, _BLOCK)), array("q", range(_BLOCK))
    ones, counting = (int.from_bytes(values.tobytes(), sys.byteorder) for values in arrays)
    return ones, counting
