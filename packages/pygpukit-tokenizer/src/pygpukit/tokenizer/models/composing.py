"""What the bytes of a character become before anything else can merge with them.

Byte-level BPE begins with bytes, and most merges in texts that aren't English only put characters
together. A merge may be done at once, whatever is around it, if nothing can come before it: in the
words of this module, if it is *safe*. It is if its two symbols are surely still there when its turn
comes, and if having its result earlier makes no other merge possible any earlier:

- no pair beside it has a lower rank, or as low a one to the left;
- where the neighbour isn't known, no merge of either symbol with anything else has such a rank;
- every merge of the result comes later.

Done in any order, safe merges lead to what merging by rank gives.
"""

from __future__ import annotations

from itertools import chain, islice, pairwise

from pygpukit.tokenizer.byte_alphabet import ALPHABET, to_alphabet
from pygpukit.tokenizer.models.base import Remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pygpukit.tokenizer.models.merges import Merges

    Symbols = tuple[str, ...]

_MAX_REMEMBERED = 1 << 14
# Characters of three bytes, perhaps behind a space.
_MAX_LENGTH = 4
# Merges from this rank on aren't looked at: by then, the characters of most scripts are complete.
_MAX_RANK = 1 << 15
_SPACE = ALPHABET[0x20]
_HIGH = frozenset(ALPHABET[0x80:])
# How many bytes a character has, by its first one.
_SIZES = {
    first: 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    for byte, first in enumerate(ALPHABET)
    if byte >= 0xC2
}


class Composed:
    """The symbols of words in characters: what safe merges make of their bytes."""

    __slots__ = ("_chars", "_heads", "_neighbours", "_ranks", "_separator")

    def __init__(self, merges: Merges) -> None:
        self._ranks: Mapping[str, int] = merges.ranks
        self._separator = merges.separator
        self._neighbours = Neighbours(merges)
        self._heads = Remembered(self._head, _MAX_REMEMBERED)
        self._chars = Remembered(self._char, _MAX_REMEMBERED)

    def symbols(self, word: str) -> list[str]:
        """The symbols of a whole word, from which merging leads to the same tokens as from bytes.

        The word has no space but perhaps the first character.
        """
        rest = map(self._chars.__getitem__, word[2:])
        return [*self._heads[word[:2]], *chain.from_iterable(rest)]

    def _head(self, start: str) -> Symbols:
        """The symbols of a word's first two characters."""
        symbols = to_alphabet(start.encode())
        if start[-1].isascii() or len(symbols) > _MAX_LENGTH:
            return tuple(symbols)
        return self._settled(list(symbols), _MAX_RANK)

    def _char(self, char: str) -> Symbols:
        """The symbols of a character, whatever is in front of it but a space."""
        symbols = to_alphabet(char.encode())
        return self._settled(list(symbols), self._neighbours.in_front(symbols[0]))

    def _settled(self, symbols: list[str], limit: int) -> Symbols:
        """What safe merges make of the bytes of one character, or of two that begin a word.

        The last of them isn't ASCII, or is the only one. From the rank ``limit`` on something else
        may merge with the first.
        """
        neighbours = self._neighbours
        end = len(symbols)
        while end > 1:
            # The lowest rank, leftmost.
            pairs = map(self._separator.join, pairwise(symbols[:end]))
            rank, i = min((self._ranks.get(pair, _MAX_RANK), i) for i, pair in enumerate(pairs))
            if rank >= limit:
                break
            if neighbours.after(symbols[end - 1]) <= rank:
                # That symbol may be gone by then.
                end -= 1
                continue
            merged = symbols[i] + symbols[i + 1]
            if neighbours.after(merged) <= rank or neighbours.before(merged) <= rank:
                break
            symbols[i : i + 2] = [merged]
            end -= 1
        return tuple(symbols)


class Neighbours:
    """At which ranks symbols that end with bytes above ASCII merge with others."""

    __slots__ = ("_after", "_before", "_in_front")

    def __init__(self, merges: Merges) -> None:
        self._after: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._in_front: dict[str, int] = {}
        # They are in the order of their ranks, or of lower ones.
        for merge, rank in islice(merges.ranks.items(), _MAX_RANK):
            if _HIGH.isdisjoint(merge):
                continue
            left, _, right = merge.partition(merges.separator)
            if len(left) <= _MAX_LENGTH and left[-1:] in _HIGH:
                _lower(self._after, left, rank)
            if len(right) <= _MAX_LENGTH and right[-1:] in _HIGH:
                _lower(self._before, right, rank)
                if not left.endswith(_SPACE) and len(right) < _SIZES.get(right[0], 0):
                    _lower(self._in_front, right[0], rank)

    def after(self, symbol: str) -> int:
        """The lowest rank of a merge with something behind the symbol, if there is a low one."""
        return self._after.get(symbol, _MAX_RANK)

    def before(self, symbol: str) -> int:
        """The lowest rank of a merge with something in front of it, if there is a low one."""
        return self._before.get(symbol, _MAX_RANK)

    def in_front(self, first: str) -> int:
        """The lowest rank of a merge that has, on its right, bytes of a character but not all.

        ``first`` is the first of them. On its left isn't a space.
        """
        return self._in_front.get(first, _MAX_RANK)


def _lower(ranks: dict[str, int], symbol: str, rank: int) -> None:
    if ranks.get(symbol, _MAX_RANK) > rank:
        ranks[symbol] = rank
