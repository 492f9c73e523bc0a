"""Putting the tokens of words together to an encoding."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, chain, compress, islice, repeat

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.encoding import Encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    # Ids, tokens, and steps in characters that lead from the beginning of a word to its end. Each
    # is a token, in their order, unless it is a Skip.
    Word = tuple[Sequence[int], Sequence[str], Sequence[int]]

# The original itself, in which every place is its own.
_ORIGINAL = AlignedText("")


class Skip(int):
    """A step over characters without a token, or back to those that the next token shares."""

    __slots__ = ()


def located(
    ids: Iterable[int], tokens: Iterable[str], firsts: Iterable[int], lasts: Iterable[int], end: int
) -> Word:
    """A word of ``end`` characters, by the first and the last character of each token."""
    steps: list[int] = []
    position = 0
    for first, last in zip(firsts, lasts, strict=True):
        steps += _skip(first - position)
        position = last + 1
        steps.append(position - first)
    steps += _skip(end - position)
    return tuple(ids), tuple(tokens), tuple(steps)


@lru_cache(maxsize=256)
def _skip(size: int) -> tuple[int, ...]:
    return (Skip(size),) if size else ()


class EncodingBuilder:
    """Collects words in the order of the text.

    Those from stretches of the original as they are wait for one another: what is made of many at
    once takes less time.
    """

    __slots__ = ("_counts", "_end", "_ids", "_offsets", "_tokens", "_words")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._tokens: list[str] = []
        self._offsets: list[tuple[int, int]] = []
        # How many tokens each pre-token has.
        self._counts: list[int] = []
        # What waits, and where in the original that ends.
        self._words: list[Word] = []
        self._end = 0

    def add_token(self, id: int, token: str, span: tuple[int, int]) -> None:
        """An added token, which is a word of its own."""
        start, end = span
        self._go_to(start)
        self._words.append(((id,), (token,), (end - start,)))
        self._counts.append(1)
        self._end = end

    def add(
        self,
        piece: AlignedText,
        words: list[Word],
        gaps: Iterable[int] | None,
        parts: Iterable[int] | None,
    ) -> None:
        """The words of a piece.

        ``gaps`` are how many characters are in front of each; None if there are only words.
        ``parts`` are how many of them together are one pre-token; None if each is.
        """
        counts: Iterable[int] = map(len, [word[0] for word in words])
        if parts is not None:
            counts = iter(counts)
            counts = [sum(islice(counts, part)) for part in parts]
        self._counts += counts
        if gaps is None and piece.is_untouched():
            self._go_to(piece.origin)
            self._words += words
            self._end = piece.origin + len(piece.text)
        else:
            self._flush()
            self._append(piece, words, gaps)

    def build(self, type_id: int) -> Encoding:
        """All that was collected."""
        self._flush()
        word_ids: list[int | None] = []
        word_ids += chain.from_iterable(map(repeat, range(len(self._counts)), self._counts))
        return Encoding(self._ids, self._tokens, self._offsets, word_ids, type_id=type_id)

    def _go_to(self, position: int) -> None:
        if position != self._end:
            self._words.append(((), (), _skip(position - self._end)))

    def _flush(self) -> None:
        if self._words:
            self._append(_ORIGINAL, self._words)
            self._words = []
        self._end = 0

    def _append(
        self, piece: AlignedText, words: list[Word], gaps: Iterable[int] | None = None
    ) -> None:
        before = len(self._ids)
        self._ids += chain.from_iterable([word[0] for word in words])
        self._tokens += chain.from_iterable([word[1] for word in words])
        walks: Iterable[Iterable[int]] = [word[2] for word in words]
        if gaps is not None:
            walks = chain.from_iterable(zip(map(_skip, gaps), walks, strict=True))
        steps = list(chain.from_iterable(walks))
        bounds = list(accumulate(steps, initial=0))
        starts: Iterable[int] = islice(bounds, len(steps))
        ends: Iterable[int] = islice(bounds, 1, None)
        # Else every step is a token, as is the rule.
        if len(steps) != len(self._ids) - before:
            are_tokens = [type(step) is int for step in steps]
            starts, ends = compress(starts, are_tokens), compress(ends, are_tokens)
        self._offsets += piece.offsets(starts, ends)
