"""The merge rules of BPE and the loops that apply them."""

from __future__ import annotations

import re
from heapq import heapify, heappop, heappush
from itertools import count, pairwise, repeat
from operator import contains, itemgetter

from pygpukit.tokenizer.byte_alphabet import ALPHABET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from typing import Any

    from pygpukit.tokenizer.models.base import Lookup
    from pygpukit.tokenizer.spec import Spec

NO_MERGE = 1 << 30
"""In the place of the rank of two tokens that don't merge."""
# Where a list with a linear search per merge stops beating a heap.
_LONG = 100
# Up to so many merges, each half of each is looked up when loading.
_FEW = 1 << 14
_MAX_REMEMBERED = 1 << 16
# What ASCII has to part texts with.
_UNIT, _RECORD = "\x1f", "\x1e"


class Merges:
    """Pairs of tokens and their ranks.

    ``ranks`` is keyed by two tokens with ``separator``, which no token has, between: so the file's
    own strings are all that loading has to index.
    """

    __slots__ = ("_of_pair", "_paired", "_prefix", "ranks", "separator")

    def __init__(
        self, ranks: Mapping[str, int], separator: str, prefix: str, *, paired: bool
    ) -> None:
        """``prefix`` is that of continuing subwords; ``paired`` says how the file has merges."""
        self.ranks = ranks
        self.separator = separator
        self._prefix = len(prefix.encode())
        self._paired = paired
        self._of_pair = _Ranks(ranks, separator).__getitem__

    @classmethod
    def from_spec(cls, spec: Spec, vocab: Mapping[str, int], tokens: Lookup, prefix: str) -> Merges:
        """The ``merges`` of a model whose continuing subwords begin with ``prefix``.

        Raises:
            TokenizerLoadError: a merge isn't a pair, or it or its result isn't in the vocabulary.
                A half of several characters may be missing from a big vocabulary unnoticed if no
                merge gives it; then it can't come up.
        """
        child = spec.child("merges")
        merges: list[Any] = child.as_type(list)
        paired = bool(merges) and not isinstance(merges[0], str)
        separator = _UNIT if paired else " "
        joined = None
        if len(merges) > _FEW and not prefix:
            joined = _joined_if_known(merges, separator, vocab, tokens, paired=paired)
        if joined is None:
            if paired:
                text = "".join(vocab)
                separator = next(c for c in map(chr, count()) if c not in text)
            joined = _checked(child, merges, separator, vocab, prefix)
        # A pair that comes twice has the rank of its last place.
        return cls(dict(zip(joined, count(), strict=False)), separator, prefix, paired=paired)

    def to_spec(self) -> list[Any]:
        """The merges as a file has them, by rank."""
        by_rank = sorted(self.ranks, key=self.ranks.__getitem__)
        return [merge.split(self.separator) for merge in by_rank] if self._paired else by_rank

    def joined(self, left: str, right: str) -> str:
        """What merging two tokens gives."""
        return left + without_prefix(right, self._prefix)

    def gives(self, token: str, vocab: Container[str]) -> bool:
        """Whether the token can come of a merge: few ends of others are tokens themselves."""
        for cut in range(1, len(token)):
            right = token[cut:]
            if right in vocab and token[:cut] + self.separator + right in self.ranks:
                return True
        return False

    def merge(self, symbols: list[str]) -> list[str]:
        """Merge the symbols of a word, which are used up: lowest rank first, ties leftmost."""
        return next(self.merge_all((symbols,)))

    def merge_all(self, words: Iterable[list[str]]) -> Iterator[list[str]]:
        """The same for the symbols of many words."""
        of_pair, find = self._of_pair, self.ranks.get
        separator, prefix = self.separator, self._prefix
        for symbols in words:
            if len(symbols) > _LONG:
                yield [token for token, _ in self.merge_sized(symbols, [0] * len(symbols))]
                continue
            ranks = list(map(of_pair, pairwise(symbols)))
            left = len(ranks)
            while left > 1:
                best = min(ranks)
                if best == NO_MERGE:
                    break
                i = ranks.index(best)
                right = symbols.pop(i + 1)
                merged = self.joined(symbols[i], right) if prefix else symbols[i] + right
                symbols[i] = merged
                del ranks[i]
                left -= 1
                if i < left:
                    ranks[i] = find(f"{merged}{separator}{symbols[i + 1]}", NO_MERGE)
                if i:
                    ranks[i - 1] = find(f"{symbols[i - 1]}{separator}{merged}", NO_MERGE)
            if left == 1 and ranks[0] != NO_MERGE:
                # The last merge changes no rank.
                symbols = [self.joined(*symbols) if prefix else symbols[0] + symbols[1]]
            yield symbols

    def merge_sized(self, symbols: list[str], sizes: list[int]) -> list[tuple[str, int]]:
        """The same in O(n log n), adding up a size for each: (token, size) for all that is left."""
        length = len(symbols)
        if length <= _LONG and not self._prefix and all(symbols):
            return _sized(self.merge(symbols.copy()), symbols, sizes)
        following = list(range(1, length + 1))
        preceding = list(range(-1, length - 1))

        def entry(i: int, j: int) -> tuple[int, int, str] | None:
            rank = self.ranks.get(symbols[i] + self.separator + symbols[j])
            return None if rank is None else (rank, i, self.joined(symbols[i], symbols[j]))

        # Ordered by rank, then position; the pair is looked up again when its entry comes up.
        heap = [found for i in range(length - 1) if (found := entry(i, i + 1))]
        heapify(heap)
        gone = ""
        while heap:
            _, i, merged = heappop(heap)
            j = following[i]
            if symbols[i] == gone or j >= length:
                continue
            current = entry(i, j)
            if current is None or current[2] != merged:
                continue
            symbols[i] = merged
            symbols[j] = gone
            sizes[i] += sizes[j]
            after = following[i] = following[j]
            if after < length:
                preceding[after] = i
            for first, second in ((i, after), (preceding[i], i)):
                if first >= 0 and second < length and (found := entry(first, second)):
                    heappush(heap, found)
        return [(s, size) for s, size in zip(symbols, sizes, strict=True) if s != gone]


def _sized(tokens: list[str], symbols: list[str], sizes: list[int]) -> list[tuple[str, int]]:
    """Tokens with the sizes of the symbols that each was merged from added up."""
    parts = zip(map(len, symbols), sizes, strict=True)
    sized = []
    for token in tokens:
        missing = len(token)
        total = 0
        while missing:
            length, size = next(parts)
            missing -= length
            total += size
        sized.append((token, total))
    return sized


class _Ranks(dict[tuple[str, str], int]):
    """The ranks of pairs that words begin with, mostly two characters, found when asked for."""

    __slots__ = ("_ranks", "_separator")

    def __init__(self, ranks: Mapping[str, int], separator: str) -> None:
        super().__init__()
        self._ranks = ranks
        self._separator = separator

    def __missing__(self, pair: tuple[str, str]) -> int:
        rank = self._ranks.get(self._separator.join(pair), NO_MERGE)
        if len(self) < _MAX_REMEMBERED:
            self[pair] = rank
        return rank


def without_prefix(token: str, length: int) -> str:
    """The token without its first ``length`` bytes: the prefix of continuing subwords.

    Raises:
        ValueError: it hasn't so many, or they end inside a character.
    """
    if not length:
        return token
    data = token.encode()
    if len(data) < length:
        raise ValueError(f"{token!r} is shorter than {length} bytes")
    return data[length:].decode()


def _joined_if_known(
    merges: list[Any], separator: str, vocab: Mapping[str, int], tokens: Lookup, *, paired: bool
) -> list[str] | None:
    """The merges joined by ``separator`` if it is plain that they are pairs that give tokens.

    Without a loop in Python: a vocabulary may have half a million merges.
    """
    try:
        joined = list(map(separator.join, merges)) if paired else merges
        text = _RECORD.join(joined)
    except TypeError:
        return None
    if not paired and "#version" in text:
        # A header that old files have among them.
        joined = [merge for merge in merges if not merge.startswith("#version")]
        text = _RECORD.join(joined)
    if not len(joined) == text.count(separator) == text.count(_RECORD) + 1:
        return None
    if not all(map(contains, joined, repeat(separator))):
        return None
    if not _alphabet_is_known(text, separator, vocab):
        return None
    merged = text.replace(separator, "").split(_RECORD)
    first = vocab.get(merged[0], 0)
    # Training appends what each merge gives to the vocabulary.
    if isinstance(tokens, list) and merged == tokens[first : first + len(merged)]:
        return joined
    return joined if all(map(vocab.__contains__, merged)) else None


def _alphabet_is_known(text: str, separator: str, vocab: Mapping[str, int]) -> bool:
    """Whether halves of one character are tokens, of merges that give tokens."""
    if vocab.keys() >= set(ALPHABET):
        spelled = re.compile(f"[{separator}{_RECORD}{re.escape(ALPHABET)}]*")
        if spelled.fullmatch(text):
            return True
    # Such a half begins or ends a token; most often all characters that do are tokens.
    texts = list(filter(None, vocab))
    ends = {*map(itemgetter(0), texts), *map(itemgetter(-1), texts)}
    return vocab.keys() >= ends or vocab.keys() >= set(text) - {separator, _RECORD}


def _checked(
    spec: Spec, merges: list[Any], separator: str, vocab: Mapping[str, int], prefix: str
) -> list[str]:
    """The merges joined by ``separator``, each one looked at."""
    joined = []
    for i, merge in enumerate(merges):
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list | tuple) or [type(half) for half in pair] != [str, str]:
            raise spec.error(f"[{i}] isn't two tokens: {merge!r}")
        left, right = pair
        try:
            merged = left + without_prefix(right, len(prefix.encode()))
        except ValueError:
            raise spec.error(f"[{i}]: {right!r} is shorter than the prefix {prefix!r}") from None
        for token in (left, right, merged):
            if token not in vocab:
                raise spec.error(f"[{i}] needs token {token!r}, which isn't in the vocabulary")
        joined.append(left + separator + right)
    return joined
