"""Putting the tokens of words together to an encoding."""

from __future__ import annotations

from itertools import accumulate, chain, compress, islice, repeat
from operator import add, sub

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.encoding import Encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # Ids, tokens, and steps that lead from the beginning of a word to its end, each in characters:
    # over a token where the step's flag isn't 0, else over characters without a token, or back to
    # those that the next token shares. Words whose every step is a token have the steps for flags.
    Word = tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...], tuple[int, ...]]
    Spans = tuple[Iterable[int], Iterable[int]]

# The original itself, in which every place is its own.
_ORIGINAL = AlignedText("")


def located(
    ids: Iterable[int], tokens: Iterable[str], firsts: Iterable[int], lasts: Iterable[int], end: int
) -> Word:
    """A word of ``end`` characters, by the first and the last character of each token."""
    steps: list[int] = []
    flags: list[int] = []
    position = 0
    for first, last in zip(firsts, lasts, strict=True):
        if first != position:
            steps.append(first - position)
            flags.append(0)
        position = last + 1
        steps.append(position - first)
        flags.append(1)
    if position != end:
        steps.append(end - position)
        flags.append(0)
    return tuple(ids), tuple(tokens), tuple(steps), tuple(flags)


class EncodingBuilder:
    """Collects words in the order of the text.

    Those from stretches of the original as they are wait for one another: what is made of many at
    once takes less time.
    """

    __slots__ = ("_count", "_end", "_ids", "_numbers", "_offsets", "_tokens", "_word_ids", "_words")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._tokens: list[str] = []
        self._offsets: list[tuple[int, int]] = []
        self._word_ids: list[int | None] = []
        self._count = 0
        # What waits: words and gaps from the beginning of the original up to a place, with the
        # words' numbers.
        self._words: list[Word] = []
        self._numbers: list[int] = []
        self._end = 0

    def next_words(self, count: int) -> range:
        """The numbers of so many more words."""
        self._count += count
        return range(self._count - count, self._count)

    def add_token(self, id: int, token: str, span: tuple[int, int]) -> None:
        """An added token, which is a word of its own."""
        start, end = span
        self._go_to(start)
        steps = (end - start,)
        self._words.append(((id,), (token,), steps, steps))
        self._numbers.append(self._count)
        self._count += 1
        self._end = end

    def add(
        self, piece: AlignedText, words: list[Word], numbers: Iterable[int], spans: Spans | None
    ) -> None:
        """Words, or parts of words that share a number, of a piece.

        ``spans`` are where in the piece they begin and how long they are; None if together they are
        the whole piece.
        """
        if spans is None and piece.is_untouched():
            self._go_to(piece.origin)
            self._words += words
            self._numbers += numbers
            self._end = piece.origin + len(piece.text)
        else:
            self._flush()
            self._append(piece, words, numbers, spans)

    def build(self, type_id: int) -> Encoding:
        """All that was collected."""
        self._flush()
        return Encoding(self._ids, self._tokens, self._offsets, self._word_ids, type_id=type_id)

    def _go_to(self, position: int) -> None:
        if position != self._end:
            self._words.append(((), (), (position - self._end,), (0,)))
            self._numbers.append(0)

    def _flush(self) -> None:
        if self._words:
            self._append(_ORIGINAL, self._words, self._numbers)
            self._words, self._numbers = [], []
        self._end = 0

    def _append(
        self,
        piece: AlignedText,
        words: list[Word],
        numbers: Iterable[int],
        spans: Spans | None = None,
    ) -> None:
        ids = [word[0] for word in words]
        counts = list(map(len, ids))
        before = len(self._ids)
        self._ids += chain.from_iterable(ids)
        self._tokens += chain.from_iterable([word[1] for word in words])
        self._word_ids += chain.from_iterable(map(repeat, numbers, counts))
        bounds = list(accumulate(chain.from_iterable([word[2] for word in words]), initial=0))
        starts: Iterable[int] = islice(bounds, len(bounds) - 1)
        ends: Iterable[int] = islice(bounds, 1, None)
        if len(bounds) - 1 != len(self._ids) - before:
            flags = list(chain.from_iterable([word[3] for word in words]))
            starts, ends = compress(starts, flags), compress(ends, flags)
        if spans is not None:
            # By how much each word is farther behind than if there were no gaps.
            gaps = map(sub, spans[0], accumulate(spans[1], initial=0))
            shifts = list(chain.from_iterable(map(repeat, gaps, counts)))
            starts, ends = map(add, starts, shifts), map(add, ends, shifts)
        self._offsets += piece.offsets(starts, ends)
