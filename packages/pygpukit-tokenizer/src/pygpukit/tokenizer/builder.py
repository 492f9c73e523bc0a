"""Putting the tokens of words together to an encoding."""

from __future__ import annotations

from itertools import chain, repeat
from operator import add

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.encoding import Encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # Ids, tokens, and of each token the first and the last of the word's characters.
    Word = tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...], tuple[int, ...]]

# The original itself, in which every place is its own.
_ORIGINAL = AlignedText("")


class EncodingBuilder:
    """Collects words in the order of the text.

    Those from stretches of the original as they are wait for one another: what is made of many at
    once takes less time.
    """

    __slots__ = (
        "_count",
        "_ids",
        "_numbers",
        "_offsets",
        "_starts",
        "_tokens",
        "_word_ids",
        "_words",
    )

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._tokens: list[str] = []
        self._offsets: list[tuple[int, int]] = []
        self._word_ids: list[int | None] = []
        self._count = 0
        # What waits: words, where in the original they begin, and their numbers.
        self._words: list[Word] = []
        self._starts: list[int] = []
        self._numbers: list[int] = []

    def next_words(self, count: int) -> range:
        """The numbers of so many more words."""
        self._count += count
        return range(self._count - count, self._count)

    def add_token(self, id: int, token: str, span: tuple[int, int]) -> None:
        """An added token, which is a word of its own."""
        start, end = span
        self._words.append(((id,), (token,), (0,), (end - start - 1,)))
        self._starts.append(start)
        self._numbers += self.next_words(1)

    def add(
        self, piece: AlignedText, words: list[Word], starts: Iterable[int], numbers: Iterable[int]
    ) -> None:
        """Words, or parts of words, that share a number, and where in the piece they begin."""
        if piece.is_untouched():
            self._words += words
            self._starts += map(piece.origin.__add__, starts) if piece.origin else starts
            self._numbers += numbers
        else:
            self._flush()
            self._append(piece, words, starts, numbers)

    def build(self, type_id: int) -> Encoding:
        """All that was collected."""
        self._flush()
        return Encoding(self._ids, self._tokens, self._offsets, self._word_ids, type_id=type_id)

    def _flush(self) -> None:
        if self._words:
            self._append(_ORIGINAL, self._words, self._starts, self._numbers)
            self._words, self._starts, self._numbers = [], [], []

    def _append(
        self, piece: AlignedText, words: list[Word], starts: Iterable[int], numbers: Iterable[int]
    ) -> None:
        ids = [word[0] for word in words]
        counts = list(map(len, ids))
        self._ids += chain.from_iterable(ids)
        self._tokens += chain.from_iterable([word[1] for word in words])
        self._word_ids += chain.from_iterable(map(repeat, numbers, counts))
        # Where the word of each token begins.
        begins = list(chain.from_iterable(map(repeat, starts, counts)))
        firsts = chain.from_iterable([word[2] for word in words])
        lasts = chain.from_iterable([word[3] for word in words])
        self._offsets += piece.offsets(map(add, begins, firsts), map(add, begins, lasts))
