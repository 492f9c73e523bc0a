"""Byte-pair encoding: split a word into characters and merge neighbours by rank."""

from __future__ import annotations

import re
from itertools import chain

from pygpukit.tokenizer.byte_alphabet import ALPHABET, to_alphabet
from pygpukit.tokenizer.models.base import Model, tokens_by_id, vocab_from_spec
from pygpukit.tokenizer.models.merges import MergeTable, merge, merge_sized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pygpukit.tokenizer.models.base import Lookup, Token
    from pygpukit.tokenizer.spec import Spec


_MARK = "\u2581"
"""What SentencePiece writes for a space."""
_MAX_REMEMBERED = 1 << 16


class BPE(Model):
    """The format's BPE model with all its options; ``dropout`` only as null or 0."""

    __slots__ = (
        "_byte_fallback",
        "_byte_ids",
        "_continuing_subword_prefix",
        "_cuts",
        "_end_of_word_suffix",
        "_fallback_ids",
        "_fuse_unk",
        "_ignore_merges",
        "_merges",
        "_symbols_of",
        "_unk_id",
        "_unk_token",
        "_vocab",
        "_words",
        "lookup",
    )

    def __init__(
        self,
        vocab: dict[str, int],
        tokens: Lookup,
        merges: MergeTable,
        *,
        unk_token: str | None = None,
        continuing_subword_prefix: str = "",
        end_of_word_suffix: str = "",
        fuse_unk: bool = False,
        byte_fallback: bool = False,
        ignore_merges: bool = False,
    ) -> None:
        self._vocab = vocab
        self.lookup: Lookup = tokens
        self._merges = merges
        self._unk_token = unk_token
        self._unk_id = None if unk_token is None else vocab.get(unk_token)
        self._continuing_subword_prefix = continuing_subword_prefix
        self._end_of_word_suffix = end_of_word_suffix
        self._fuse_unk = fuse_unk
        self._byte_fallback = byte_fallback
        self._ignore_merges = ignore_merges
        plain = not (continuing_subword_prefix or end_of_word_suffix)
        byte_ids = [vocab.get(char, -1) for char in ALPHABET]
        self._byte_ids = byte_ids if plain and min(byte_ids) >= 0 else None
        self._fallback_ids = [vocab.get(f"<0x{b:02X}>", -1) for b in range(256)]
        self._cuts = plain and not ignore_merges and _MARK in vocab
        self._words: re.Pattern[str] | None = None
        # Where no character is ever the unknown token, each has its symbols by itself.
        unknown = unk_token is not None and not (byte_fallback and min(self._fallback_ids) >= 0)
        self._symbols_of = None if unknown or not plain else _Symbols(self._symbols).__getitem__

    @classmethod
    def from_spec(cls, spec: Spec) -> BPE:
        if spec.optional("dropout", float):
            raise spec.error("dropout other than 0 isn't supported: it makes encoding random")
        vocab = vocab_from_spec(spec)
        tokens = tokens_by_id(vocab)
        prefix = spec.optional("continuing_subword_prefix", str) or ""
        return cls(
            vocab,
            tokens,
            MergeTable.from_spec(spec, vocab, tokens, prefix),
            unk_token=spec.optional("unk_token", str),
            continuing_subword_prefix=prefix,
            end_of_word_suffix=spec.optional("end_of_word_suffix", str) or "",
            fuse_unk=spec.optional("fuse_unk", bool) or False,
            byte_fallback=spec.optional("byte_fallback", bool) or False,
            ignore_merges=spec.optional("ignore_merges", bool) or False,
        )

    def to_spec(self) -> dict[str, Any]:
        return {"merges": self._merges.to_spec()}

    @property
    def vocab(self) -> Mapping[str, int]:
        return self._vocab

    def ids_of_bytes(self, data: bytes) -> Sequence[int]:
        byte_ids = self._byte_ids
        if byte_ids is None:
            return self.ids(to_alphabet(data))
        if self._ignore_merges:
            whole = self._vocab.get(to_alphabet(data))
            if whole is not None:
                return (whole,)
        return merge([byte_ids[b] for b in data], self._merges)

    def ids(self, word: str) -> Sequence[int]:
        if self._ignore_merges and word in self._vocab:
            return (self._vocab[word],)
        if self._symbols_of is not None:
            return merge(list(chain.from_iterable(map(self._symbols_of, word))), self._merges)
        return merge(self._symbols(word)[0], self._merges)

    def cuts(self) -> bool:
        return self._cuts

    def words(self, text: str) -> list[str]:
        if self._words is None:
            self._words = _word_pattern(self._vocab)
        return self._words.findall(text)

    def tokens(self, word: str) -> list[Token]:
        if self._ignore_merges and word in self._vocab:
            return [(self._vocab[word], word, 0, len(word.encode()))]
        tokens = []
        position = 0
        for id, size in merge_sized(*self._symbols(word), self._merges):
            tokens.append((id, self.lookup[id], position, position + size))
            position += size
        return tokens

    def _symbols(self, word: str) -> tuple[list[int], list[int]]:
        """The ids to merge and how many bytes of the word each stands for."""
        ids: list[int] = []
        sizes: list[int] = []
        unknown = 0
        last = len(word) - 1
        for i, char in enumerate(word):
            size = len(char.encode())
            symbol = char
            if i:
                symbol = self._continuing_subword_prefix + symbol
            if i == last:
                symbol += self._end_of_word_suffix
            id = self._vocab.get(symbol)
            if id is not None:
                if unknown:
                    self._add_unknown(ids, sizes, unknown)
                    unknown = 0
                ids.append(id)
                sizes.append(size)
                continue
            fallback = self._fallback(symbol)
            if fallback:
                # As in the reference, an unknown character before these comes out behind them.
                ids += fallback
                affixed = len(self._continuing_subword_prefix.encode()) if i else 0
                sizes += [0] * affixed + [1] * size
                sizes += [0] * (len(ids) - len(sizes))
            elif self._unk_token is not None:
                if unknown and not self._fuse_unk:
                    self._add_unknown(ids, sizes, unknown)
                    unknown = 0
                unknown += size
        if unknown:
            self._add_unknown(ids, sizes, unknown)
        return ids, sizes

    def _add_unknown(self, ids: list[int], sizes: list[int], size: int) -> None:
        if self._unk_id is None:
            raise ValueError(f"unknown token {self._unk_token!r} isn't in the vocabulary")
        ids.append(self._unk_id)
        sizes.append(size)

    def _fallback(self, symbol: str) -> list[int]:
        """The byte tokens of a symbol, none unless the vocabulary has them all."""
        if not self._byte_fallback:
            return []
        ids = [self._fallback_ids[byte] for byte in symbol.encode()]
        return ids if min(ids) >= 0 else []


class _Symbols(dict[str, tuple[int, ...]]):
    """The ids that a character is split into before merging, found when first asked for."""

    def __init__(self, find: Callable[[str], tuple[list[int], list[int]]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, char: str) -> tuple[int, ...]:
        ids = tuple(self._find(char)[0])
        if len(self) < _MAX_REMEMBERED:
            self[char] = ids
        return ids


def _word_pattern(vocab: Mapping[str, int]) -> re.Pattern[str]:
    """Cuts a text before every run of marks, unless a token reaches across.

    No merge crosses a place inside of no token, so the parts can be merged one by one.
    """
    crossing = set()
    for token in vocab:
        if _MARK in token:
            crossing.update(re.findall(f"[^{_MARK}](?={_MARK})", token, re.DOTALL))
    uncut = f"(?:(?<=[{re.escape(''.join(crossing))}]){_MARK}+[^{_MARK}]*)*" if crossing else ""
    return re.compile(f"{_MARK}*[^{_MARK}]+{uncut}|{_MARK}+")
