"""The merge rules of BPE and the loops that apply them."""

from __future__ import annotations

import re
from heapq import heapify, heappop, heappush
from itertools import count, pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pygpukit.tokenizer.spec import Spec

    Lookup = Sequence[str] | Mapping[int, str]

NO_MERGE = 1 << 62
ID_BITS = 32
ID_MASK = (1 << ID_BITS) - 1
_MAX_PAIRS = 1 << 20
# Where a list with a linear search per merge stops beating a heap.
_LONG = 100


class PairTable(dict[int, int]):
    """Pairs of ids to what merging them gives, filled in as pairs are met.

    A key is ``left << 32 | right``, a value ``rank << 32 | merged id`` or ``NO_MERGE``, so that the
    least value is the merge to do next. The file's own list of merges is only indexed by its
    strings, which costs a fraction of turning it all into ids.
    """

    __slots__ = ("_prefix", "_ranks", "_separator", "_tokens", "_vocab")

    def __init__(
        self,
        vocab: Mapping[str, int],
        tokens: Lookup,
        ranks: Mapping[str, int],
        separator: str,
        prefix: str,
    ) -> None:
        super().__init__()
        self._vocab = vocab
        self._tokens = tokens
        self._ranks = ranks
        self._separator = separator
        self._prefix = len(prefix.encode())

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


def without_prefix(token: str, length: int) -> str:
    """The token without its first ``length`` bytes: the prefix of continuing subwords."""
    return token.encode()[length:].decode() if length else token


def load_merges(spec: Spec, vocab: Mapping[str, int], prefix: str) -> tuple[dict[str, int], str]:
    """The ranks of the merges, keyed by the two tokens with a separator between, and that.

    Raises:
        TokenizerLoadError: a merge isn't a pair, or it or its result isn't in the vocabulary.
    """
    child = spec.child("merges")
    merges = child.as_type(list)
    if not merges:
        return {}, " "
    if isinstance(merges[0], str):
        separator = " "
        merges = [m for m in merges if not (isinstance(m, str) and m.startswith("#version"))]
        joined = merges
    else:
        separator = _unused_character(vocab)
        for i, merge in enumerate(merges):
            if not isinstance(merge, list | tuple) or len(merge) != 2:
                raise child.error(f"[{i}] isn't a pair: {merge!r}")
        joined = list(map(separator.join, merges))
    _check(child, joined, separator, vocab, len(prefix.encode()))
    # A pair that comes twice has the rank of its last place.
    return dict(zip(joined, count(), strict=False)), separator


def _unused_character(vocab: Mapping[str, int]) -> str:
    text = "".join(vocab)
    return next(c for c in map(chr, count(0x20)) if c not in text)


def _check(
    spec: Spec, merges: list[str], separator: str, vocab: Mapping[str, int], prefix: int
) -> None:
    """Check all merges, without a loop in Python where nothing is wrong."""
    if not prefix and _all_known(merges, separator, vocab):
        return
    for i, merge in enumerate(merges):
        if not isinstance(merge, str) or merge.count(separator) != 1:
            raise spec.error(f"[{i}] isn't two tokens with a space between: {merge!r}")
        left, right = merge.split(separator)
        for token in (left, right, left + without_prefix(right, prefix)):
            if token not in vocab:
                raise spec.error(f"[{i}] needs token {token!r}, which isn't in the vocabulary")


def _all_known(merges: list[str], separator: str, vocab: Mapping[str, int]) -> bool:
    """Whether every merge is two tokens that join to a third; False may also mean "can't say"."""
    try:
        text = "\n".join(merges)
    except TypeError:
        return False
    one, two = re.escape(separator), f"[^{re.escape(separator)}\n]+"
    if not re.fullmatch(f"(?:{two}{one}{two}\n)*+{two}{one}{two}", text):
        return False
    known = vocab.__contains__
    halves = text.replace("\n", separator).split(separator)
    return all(map(known, halves)) and all(map(known, text.replace(separator, "").split("\n")))


def merge(ids: list[int], pairs: PairTable) -> list[int]:
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


def merge_sized(ids: list[int], sizes: list[int], pairs: PairTable) -> list[tuple[int, int]]:
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
