"""The merge rules of BPE and the loops that apply them."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count, pairwise, repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pygpukit.tokenizer.models.base import Lookup
    from pygpukit.tokenizer.spec import Spec

NO_MERGE = 1 << 62
ID_BITS = 32
ID_MASK = (1 << ID_BITS) - 1
_MAX_PAIRS = 1 << 20
# Where a list with a linear search per merge stops beating a heap.
_LONG = 100
# Up to so many merges, each half of each is looked up when loading.
_FEW = 1 << 14


class MergeTable(dict[int, int]):
    """Pairs of ids to what merging them gives, filled in as pairs are met.

    A key is ``left << 32 | right``, a value ``rank << 32 | merged id`` or ``NO_MERGE``, so that the
    least value is the merge to do next. The file's own list of merges is only indexed by its
    strings, which costs a fraction of turning it all into ids.
    """

    __slots__ = ("_paired", "_prefix", "_ranks", "_separator", "_tokens", "_vocab")

    def __init__(
        self, vocab: Mapping[str, int], tokens: Lookup, ranks: Mapping[str, int], separator: str
    ) -> None:
        """``ranks`` is keyed by two tokens with ``separator``, which no token has, between."""
        super().__init__()
        self._vocab = vocab
        self._tokens = tokens
        self._ranks = ranks
        self._separator = separator
        self._prefix = 0
        self._paired = False

    @classmethod
    def from_spec(
        cls, spec: Spec, vocab: Mapping[str, int], tokens: Lookup, prefix: str
    ) -> MergeTable:
        """The ``merges`` of a model whose continuing subwords begin with ``prefix``.

        Raises:
            TokenizerLoadError: a merge isn't a pair, or it or its result isn't in the vocabulary.
                A half of several characters may be missing from a big vocabulary unnoticed if no
                merge gives it; then it can't come up.
        """
        child = spec.child("merges")
        merges: list[Any] = child.as_type(list)
        paired = bool(merges) and not isinstance(merges[0], str)
        separator = _unused_character(vocab) if paired else " "
        try:
            joined = list(map(separator.join, merges)) if paired else _without_version(merges)
            known = _all_known(joined, separator, vocab, tokens) and not prefix
        except TypeError:
            known = False
        if not known or len(merges) <= _FEW:
            joined = _checked(child, merges, separator, vocab, prefix)
        # A pair that comes twice has the rank of its last place.
        table = cls(vocab, tokens, dict(zip(joined, count(), strict=False)), separator)
        table._prefix = len(prefix.encode())
        table._paired = paired
        return table

    def __missing__(self, pair: int) -> int:
        left, right = self._tokens[pair >> ID_BITS], self._tokens[pair & ID_MASK]
        rank = self._ranks.get(left + self._separator + right)
        if rank is None:
            value = NO_MERGE
        else:
            value = rank << ID_BITS | self._vocab[left + without_prefix(right, self._prefix)]
        if len(self) < _MAX_PAIRS:
            self[pair] = value
        return value

    def to_spec(self) -> list[Any]:
        """The merges as a file has them, by rank."""
        by_rank = sorted(self._ranks, key=self._ranks.__getitem__)
        return [merge.split(self._separator) for merge in by_rank] if self._paired else by_rank


def without_prefix(token: str, length: int) -> str:
    """The token without its first ``length`` bytes: the prefix of continuing subwords.

    Raises:
        ValueError: it hasn't so many, or they end inside a character.
    """
    data = token.encode()
    if len(data) < length:
        raise ValueError(f"{token!r} is shorter than {length} bytes")
    return data[length:].decode() if length else token


def _unused_character(vocab: Mapping[str, int]) -> str:
    text = "".join(vocab)
    return next(c for c in map(chr, count(0x20)) if c not in text)


def _without_version(merges: list[Any]) -> list[str]:
    """The merges without the header line that old files have among them.

    Raises:
        TypeError: a merge isn't a string.
    """
    if "#version" not in "".join(merges):
        return merges
    return [merge for merge in merges if not merge.startswith("#version")]


def _all_known(merges: list[str], separator: str, vocab: Mapping[str, int], tokens: Lookup) -> bool:
    """Whether merges are pairs of the vocabulary's characters and give tokens of it.

    Without a loop in Python: a vocabulary may have half a million merges.
    """
    if not merges or set(map(str.count, merges, repeat(separator))) != {1}:
        return False
    text = "\n".join(merges)
    if text.count("\n") != len(merges) - 1 or not vocab.keys() >= set(text) - {separator, "\n"}:
        return False
    merged = text.replace(separator, "").split("\n")
    first = vocab.get(merged[0], 0)
    # Training appends what each merge gives to the vocabulary.
    if isinstance(tokens, list) and merged == tokens[first : first + len(merged)]:
        return True
    return all(map(vocab.__contains__, merged))


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


def merge(ids: list[int], pairs: MergeTable) -> list[int]:
    """Apply the merges to ``ids``, which is used up: the lowest rank first, ties leftmost."""
    if len(ids) > _LONG:
        return [id for id, _ in merge_sized(ids, [0] * len(ids), pairs)]
    values = [pairs[a << ID_BITS | b] for a, b in pairwise(ids)]
    while values:
        best = min(values)
        if best == NO_MERGE:
            break
        i = values.index(best)
        merged = best & ID_MASK
        ids[i] = merged
        del ids[i + 1], values[i]
        if i < len(values):
            values[i] = pairs[merged << ID_BITS | ids[i + 1]]
        if i:
            values[i - 1] = pairs[ids[i - 1] << ID_BITS | merged]
    return ids


def merge_sized(ids: list[int], sizes: list[int], pairs: MergeTable) -> list[tuple[int, int]]:
    """The same in O(n log n), adding up a size for every id: (id, size) for each token left."""
    length = len(ids)
    following = list(range(1, length + 1))
    preceding = list(range(-1, length - 1))
    # An entry orders by rank, then position; the pair is looked up again when it comes up.
    heap = []
    for i in range(length - 1):
        value = pairs[ids[i] << ID_BITS | ids[i + 1]]
        if value != NO_MERGE:
            heap.append((value >> ID_BITS, i, value & ID_MASK))
    heapify(heap)
    gone = -1
    while heap:
        _, i, merged = heappop(heap)
        j = following[i]
        if ids[i] == gone or j >= length:
            continue
        value = pairs[ids[i] << ID_BITS | ids[j]]
        if value == NO_MERGE or value & ID_MASK != merged:
            continue
        ids[i] = merged
        ids[j] = gone
        sizes[i] += sizes[j]
        after = following[i] = following[j]
        before = preceding[i]
        if after < length:
            preceding[after] = i
            value = pairs[merged << ID_BITS | ids[after]]
            if value != NO_MERGE:
                heappush(heap, (value >> ID_BITS, i, value & ID_MASK))
        if before >= 0:
            value = pairs[ids[before] << ID_BITS | merged]
            if value != NO_MERGE:
                heappush(heap, (value >> ID_BITS, before, value & ID_MASK))
    return [(id, size) for id, size in zip(ids, sizes, strict=True) if id != gone]
