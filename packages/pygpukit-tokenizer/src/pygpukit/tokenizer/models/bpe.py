"""Byte-pair encoding: split a word into characters and merge neighbours by rank."""

from __future__ import annotations

from functools import partial

from pygpukit.tokenizer.byte_alphabet import ALPHABET, each_to_alphabet
from pygpukit.tokenizer.models.base import Model, tokens_by_id, vocab_from_spec
from pygpukit.tokenizer.models.composing import Composed
from pygpukit.tokenizer.models.cutting import MARK, word_pattern
from pygpukit.tokenizer.models.merges import Merges

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pygpukit.tokenizer.models.base import Lookup, Token
    from pygpukit.tokenizer.spec import Spec

# Finding out how to cut takes longer than merging so many characters uncut.
_WORTH_CUTTING = 1024
# Finding out how bytes make characters takes longer than merging so many words byte by byte.
_WORTH_COMPOSING = 2048


class BPE(Model):
    """The format's BPE model with all its options; ``dropout`` only as null or 0."""

    __slots__ = (
        "_bytewise",
        "_composed",
        "_continuing_subword_prefix",
        "_cuts",
        "_end_of_word_suffix",
        "_fallback_tokens",
        "_fuse_unk",
        "_ignore_merges",
        "_known",
        "_merges",
        "_plain",
        "_spells",
        "_uncut",
        "_unk_token",
        "_vocab",
        "_words",
        "appended",
        "lookup",
    )

    def __init__(
        self,
        vocab: dict[str, int],
        tokens: Lookup,
        merges: Merges,
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
        self._continuing_subword_prefix = continuing_subword_prefix
        self._end_of_word_suffix = end_of_word_suffix
        self._fuse_unk = fuse_unk
        self._ignore_merges = ignore_merges
        # Whether the symbols of a word are its characters.
        self._plain = not (continuing_subword_prefix or end_of_word_suffix)
        # Words that are tokens themselves come without a suffix.
        alike = not (continuing_subword_prefix or ignore_merges)
        self.appended = len(end_of_word_suffix) if alike else 0
        # Whether it has a symbol for every byte of words spelled in the byte alphabet.
        self._spells = self._plain and all(map(vocab.__contains__, ALPHABET))
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        self._fallback_tokens = byte_tokens if byte_fallback else None
        # Where a character could be dropped, offsets of all of the word behind it shift.
        complete = byte_fallback and all(map(vocab.__contains__, byte_tokens))
        drops = unk_token is None and not complete
        self._cuts = self._plain and not ignore_merges and not drops and MARK in vocab
        # Symbols of words that are in the vocabulary, as far as they were seen.
        self._known: set[str] = set()
        # Made when it is worth it; so many words that aren't ASCII came before.
        self._composed: Composed | None = None
        self._bytewise = 0
        self._uncut = 0
        self._words: re.Pattern[str] | None = None

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
            Merges.from_spec(spec, vocab, tokens, prefix),
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

    def ids(self, word: str) -> Sequence[int]:
        return next(self.all_ids((word,), spelled=False))

    def spelled_ids(self, word: str) -> Sequence[int]:
        return next(self.all_ids((word,), spelled=True))

    def all_ids(self, words: Sequence[str], *, spelled: bool) -> Iterator[Sequence[int]]:
        if spelled and self._spells:
            symbols = self._spelled_symbols(words)
        else:
            symbols = map(self._first_symbols, each_to_alphabet(words) if spelled else words)
        id_of = self._vocab.__getitem__
        for pieces in self._merges.merge_all(symbols):
            yield (id_of(pieces[0]),) if len(pieces) == 1 else tuple(map(id_of, pieces))

    def pieces(self, word: str) -> list[str] | None:
        symbols = self._spelling(word)
        return None if symbols is None else self._merges.merge(symbols)

    def spelled_pieces(self, word: str) -> list[str] | None:
        if not self._spells:
            return super().spelled_pieces(word)
        return self._merges.merge(next(self._spelled_symbols((word,))))

    def _first_symbols(self, word: str) -> list[str]:
        """What merging a word begins with."""
        symbols = self._spelling(word)
        return self._symbols(word)[0] if symbols is None else symbols

    def _spelling(self, word: str) -> list[str] | None:
        """The same if together they spell the word."""
        vocab = self._vocab
        if self._ignore_merges and word in vocab:
            return [word]
        if not (self._plain or self.appended) or not word:
            return None
        symbols = list(word)
        symbols[-1] += self._end_of_word_suffix
        if not self._known.issuperset(symbols):
            if not all(map(vocab.__contains__, symbols)):
                return None
            self._known.update(symbols)
        return symbols

    def _spelled_symbols(self, words: Sequence[str]) -> Iterator[list[str]]:
        """What merging begins with of words that are yet to be spelled in the byte alphabet."""
        # Words that are tokens need no merging where the file says so.
        whole = self._vocab if self._ignore_merges else ()
        for word, spelled in zip(words, each_to_alphabet(words), strict=True):
            if spelled in whole:
                yield [spelled]
            # Behind a space characters may begin differently.
            elif (
                not word.isascii()
                and word.find(" ", 1) < 0
                and (composed := self._composed or self._composition())
            ):
                yield composed.symbols(word)
            else:
                yield list(spelled)

    def _composition(self) -> Composed | None:
        """What makes symbols of characters; None as long as that isn't worth it."""
        self._bytewise += 1
        if self._bytewise > _WORTH_COMPOSING:
            self._composed = Composed(self._merges)
        return self._composed

    def cuts(self) -> bool:
        return self._cuts

    def words(self, text: str) -> list[str]:
        if self._words is None:
            self._uncut += len(text)
            if self._uncut < _WORTH_CUTTING:
                return [text] if text else []
            # Bytes, or unknown characters, could merge with whatever is beside them.
            atoms = filter(None, ("<0x", self._unk_token))
            gives = partial(self._merges.gives, vocab=self._vocab)
            self._words = word_pattern(self._vocab, gives, list(atoms))
        return self._words.findall(text)

    def tokens(self, word: str) -> list[Token]:
        if self._ignore_merges and word in self._vocab:
            return [(self._vocab[word], word, 0, len(word.encode()))]
        tokens = []
        position = 0
        for token, size in self._merges.merge_sized(*self._symbols(word)):
            tokens.append((self._vocab[token], token, position, position + size))
            position += size
        return tokens

    def _symbols(self, word: str) -> tuple[list[str], list[int]]:
        """The tokens to merge and how many bytes of the word each stands for."""
        symbols: list[str] = []
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
            if symbol in self._vocab:
                if unknown:
                    self._add_unknown(symbols, sizes, unknown)
                    unknown = 0
                symbols.append(symbol)
                sizes.append(size)
                continue
            fallback = self._fallback(symbol)
            if fallback:
                # As in the reference, an unknown character before these comes out behind them.
                symbols += fallback
                affixed = len(self._continuing_subword_prefix.encode()) if i else 0
                sizes += [0] * affixed + [1] * size
                sizes += [0] * (len(symbols) - len(sizes))
            elif self._unk_token is not None:
                if unknown and not self._fuse_unk:
                    self._add_unknown(symbols, sizes, unknown)
                    unknown = 0
                unknown += size
        if unknown:
            self._add_unknown(symbols, sizes, unknown)
        return symbols, sizes

    def _add_unknown(self, symbols: list[str], sizes: list[int], size: int) -> None:
        if self._unk_token is None or self._unk_token not in self._vocab:
            raise ValueError(f"unknown token {self._unk_token!r} isn't in the vocabulary")
        symbols.append(self._unk_token)
        sizes.append(size)

    def _fallback(self, symbol: str) -> list[str]:
        """The byte tokens of a symbol, none unless the vocabulary has them all."""
        if self._fallback_tokens is None:
            return []
        tokens = [self._fallback_tokens[byte] for byte in symbol.encode()]
        return tokens if all(map(self._vocab.__contains__, tokens)) else []
