"""Unigram language model: the segmentation of the highest total score."""

from __future__ import annotations

from itertools import chain
from operator import itemgetter

from pygpukit.tokenizer.models.base import Model, Remembered
from pygpukit.tokenizer.models.cutting import MARK, word_pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pygpukit.tokenizer.models.base import Lookup, Token
    from pygpukit.tokenizer.spec import Spec

# What an unknown character scores below the least score of the vocabulary (as in SentencePiece).
_UNKNOWN_PENALTY = 10.0
# Tokens from this length on are looked for by so many of their last characters.
_LONG = 4
# Finding the lengths of all tokens takes longer than trying all lengths on so many characters.
_WORTH_INDEXING = 256
# Finding out where to cut takes longer than searching so many characters uncut.
_WORTH_CUTTING = 1 << 14
# Sums of so many scores that are no greater have errors far smaller than what counts as close.
_MAX_CUT = 1024
_MAX_SCORE = 1000.0
_CLOSE = 1e-6
_MAX_PARTS = 1 << 16
_NOWHERE = float("-inf")
_NEVER = 1 << 62
_SINGLE = (1,)


class Unigram(Model):
    """Viterbi search in float64, as SentencePiece's ``EncodeOptimized`` does it.

    Of equal segmentations the one found first wins. Neighbouring unknown characters are one token,
    which ``byte_fallback`` spells in byte tokens where the vocabulary has all that it needs.
    """

    __slots__ = (
        "_byte_fallback",
        "_lengths",
        "_long",
        "_parts",
        "_paths",
        "_scores",
        "_short",
        "_uncut",
        "_unk_id",
        "_unk_score",
        "_vocab",
        "_words",
        "lookup",
    )

    def __init__(
        self, pieces: Sequence[tuple[str, float]], unk_id: int | None, *, byte_fallback: bool
    ) -> None:
        """``pieces`` are tokens and their scores by id; of equal tokens the last one counts."""
        self.lookup: Lookup = [token for token, _ in pieces]
        self._vocab = {token: id for id, (token, _) in enumerate(pieces)}
        self._scores = _Scores([score for _, score in pieces])
        self._unk_id = unk_id
        self._unk_score = self._scores.least() - _UNKNOWN_PENALTY
        self._byte_fallback = byte_fallback
        # By the last two characters the lengths of tokens that are shorter than _LONG, and 1, where
        # there are any tokens; of the longer ones by the last _LONG characters. Longest first.
        # Made when it is worth it.
        self._short: dict[str, tuple[int, ...]] = {}
        self._long: dict[str, tuple[int, ...]] = {}
        longest = max(map(len, self._vocab), default=0) or 1
        self._lengths: range | None = range(longest, 0, -1)
        # What cuts words, made when it is worth it; so many characters came before.
        self._words: re.Pattern[str] | None = None
        self._uncut = 0
        self._parts = Remembered(self._clear_pieces, _MAX_PARTS)
        # Of the text before; more where several threads tokenize.
        self._paths: list[_Paths] = []

    @classmethod
    def from_spec(cls, spec: Spec) -> Unigram:
        child = spec.child("vocab")
        pieces = child.as_type(list)
        if not _are_scored(pieces):
            i = next(i for i, piece in enumerate(pieces) if not _are_scored([piece]))
            raise child.error(f"[{i}] isn't a token with its score: {pieces[i]!r}")
        unk_id = spec.optional("unk_id", int)
        if unk_id is not None and not 0 <= unk_id < len(pieces):
            raise spec.error(f"unk_id: {unk_id} isn't an index of the {len(pieces)} pieces")
        return cls(
            [(token, float(score)) for token, score in pieces],
            unk_id,
            byte_fallback=spec.get("byte_fallback", bool, False),
        )

    @property
    def vocab(self) -> Mapping[str, int]:
        return self._vocab

    @property
    def size(self) -> int:
        # A piece that comes twice takes up two ids.
        return len(self.lookup)

    def ids(self, word: str) -> Sequence[int]:
        id = self._vocab.get(word)
        if id is not None and len(word) == 1:
            return (id,)
        pieces = self.pieces(word)
        if pieces is None:
            return [id for id, _, _, _ in self.tokens(word)]
        return self.piece_ids(pieces)

    def pieces(self, word: str) -> list[str] | None:
        pieces = self._pieces(word)
        if self._byte_fallback and not all(map(self._vocab.__contains__, pieces)):
            return None
        return pieces

    def piece_ids(self, pieces: list[str]) -> tuple[int, ...]:
        ids = tuple(map(self._vocab.get, pieces))
        if None in ids:
            ids = tuple([self._unknown() if id is None else id for id in ids])
        return ids  # type: ignore[return-value] # none of them is None

    def tokens(self, word: str) -> list[Token]:
        tokens = []
        position = 0
        for piece in self._pieces(word):
            end = position + len(piece.encode())
            tokens += [(id, token, position, end) for id, token in self._spelled(piece)]
            position = end
        return tokens

    def _spelled(self, piece: str) -> Iterator[tuple[int, str]]:
        """The token of a piece, or those of its bytes."""
        id = self._vocab.get(piece)
        if id is None and self._byte_fallback:
            tokens = [f"<0x{byte:02X}>" for byte in piece.encode()]
            if all(token in self._vocab for token in tokens):
                yield from ((self._vocab[token], token) for token in tokens)
                return
        yield self._unknown() if id is None else id, piece

    def _unknown(self) -> int:
        if self._unk_id is None:
            raise ValueError("a character isn't in the vocabulary, and the model has no unk_id")
        return self._unk_id

    def _pieces(self, text: str) -> list[str]:
        """The best segmentation, unknown neighbours joined."""
        if self._uncut <= _WORTH_CUTTING:
            self._uncut += len(text)
            if self._lengths is not None and self._uncut > _WORTH_INDEXING:
                self._index()
            if self._uncut > _WORTH_CUTTING:
                self._words = self._word_pattern()
        if self._words is not None and len(text) <= _MAX_CUT:
            parts = list(map(self._parts.__getitem__, self._words.findall(text)))
            if all(parts):
                return list(chain.from_iterable(parts))
        return self._best_pieces(text)[0]

    def _index(self) -> None:
        """Find the lengths of tokens by what they end with."""
        short: dict[str, set[int]] = {}
        long: dict[str, set[int]] = {}
        for token, length in zip(self._vocab, map(len, self._vocab), strict=True):
            last = token[-2:]
            if last not in short and length > 1:
                short[last] = set()
            if length >= _LONG:
                end = token[-_LONG:]
                if end in long:
                    long[end].add(length)
                else:
                    long[end] = {length}
            elif length > 1:
                short[last].add(length)
        self._short = {last: (*sorted(found)[::-1], 1) for last, found in short.items()}
        self._long = {end: tuple(sorted(found)[::-1]) for end, found in long.items()}
        self._lengths = None

    def _word_pattern(self) -> re.Pattern[str] | None:
        """What cuts words where no token reaches across; None if that is in few places."""
        unknown = None if self._unk_id is None else self.lookup[self._unk_id]
        # Unknown neighbours are one token, so one of any two must be known; see word_pattern.
        if MARK not in self._vocab or unknown is None or len(unknown) == 1:
            return None
        if self._scores.greatest() > _MAX_SCORE:
            return None
        pattern = word_pattern(self._vocab, self._vocab.__contains__)
        others = [c for c in map(chr, range(0x21, 0x7F)) if c in self._vocab and not c.isalpha()]
        return pattern if len(pattern.findall("a".join(others))) > len(others) else None

    def _clear_pieces(self, part: str) -> tuple[str, ...]:
        """The best segmentation of a part if what is in front of it can't change that, else none.

        It could where two segmentations are equal but for rounding.
        """
        pieces, close = self._best_pieces(part)
        return () if close else tuple(pieces)

    def _best_pieces(self, text: str) -> tuple[list[str], bool]:
        """The best segmentation, and if any decision on the way to it was close."""
        try:
            # Nobody else has it meanwhile.
            paths = self._paths.pop()
        except IndexError:
            paths = _Paths()
        self._extend(paths, text)
        pieces: list[str] = []
        unknown_end = 0
        end = len(text)
        while end:
            start = paths.starts[end]
            if start >= 0:
                if unknown_end:
                    pieces.append(text[end:unknown_end])
                    unknown_end = 0
                pieces.append(text[start:end])
            else:
                start = ~start
                unknown_end = unknown_end or end
            end = start
        if unknown_end:
            pieces.append(text[:unknown_end])
        pieces.reverse()
        close = paths.first_close <= len(text)
        if len(text) <= _MAX_CUT:
            self._paths.append(paths)
        return pieces, close

    def _extend(self, paths: _Paths, text: str) -> None:
        """Find the best paths through the part of a text that the text before didn't have."""
        vocab, scores, unk_id, near = self._vocab, self._scores, self._unk_id, _CLOSE
        # In this order: the others are there before this is gone.
        all_lengths, short, long = self._lengths, self._short, self._long
        lengths: tuple[int, ...] = ()
        paths.go_back_to(text)
        best, starts = paths.best, paths.starts
        for end in range(len(best), len(text) + 1):
            if all_lengths is None:
                lengths = short.get(text[end - 2 : end], _SINGLE)
                if lengths is not _SINGLE:
                    lengths = long.get(text[end - _LONG : end], ()) + lengths
            top, origin = _NOWHERE, end
            for length in all_lengths or lengths:
                start = end - length
                if start < 0:
                    continue
                id = vocab.get(text[start:end])
                if id is not None:
                    score = scores[id] + best[start]
                elif length == 1:
                    score = self._unk_score + best[start]
                else:
                    continue
                gain = score - top
                if gain > -near:
                    if gain < near:
                        paths.close_at(end)
                    if gain > 0:
                        if id is None:
                            self._unknown()
                        top, origin = score, ~start if id is None or id == unk_id else start
            best.append(top)
            starts.append(origin)


class _Paths:
    """The best paths to the characters of a text, which serve texts that begin alike.

    ``best`` has the score of the path up to each place, ``starts`` where its last piece starts,
    inverted if that isn't known. ``first_close`` is the first place whose best path was close to
    another one.
    """

    __slots__ = ("best", "first_close", "starts", "text")

    def __init__(self) -> None:
        self.text = ""
        self.best = [0.0]
        self.starts = [0]
        self.first_close = _NEVER

    def go_back_to(self, text: str) -> None:
        """Keep what holds for another text as well."""
        shared = 0
        for ours, theirs in zip(self.text, text, strict=False):
            if ours != theirs:
                break
            shared += 1
        del self.best[shared + 1 :], self.starts[shared + 1 :]
        if self.first_close > shared:
            self.first_close = _NEVER
        self.text = text

    def close_at(self, place: int) -> None:
        """Note that the best path to a place was close to another one."""
        self.first_close = min(self.first_close, place)


class _Scores(dict[int, float]):
    """Scores by id, as the reference has them, found when first asked for."""

    __slots__ = ("_values",)

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self._values = values

    def __missing__(self, id: int) -> float:
        score = self[id] = twice_rounded(self._values[id])
        return score

    def least(self) -> float:
        """The least of all scores."""
        return twice_rounded(min(self._values, default=float("inf")))

    def greatest(self) -> float:
        """The greatest amount of any score."""
        return max(map(abs, self._values), default=0.0)


def twice_rounded(value: float) -> float:
    """What the reference reads where a file has ``value``: that number or one next to it.

    serde_json without its feature ``float_roundtrip`` rounds the digits to a float64, divides that
    by a power of ten and rounds again. Which of two equal segmentations wins can depend on that.
    """
    digits, _, exponent = repr(value).partition("e")
    whole, point, fraction = digits.partition(".")
    if not point and not exponent:
        return value
    power = int(exponent or 0) - len(fraction)
    scale = float(f"1e{abs(power)}")
    significand = float(int(whole + fraction))
    return significand * scale if power > 0 else significand / scale


def _are_scored(pieces: list[Any]) -> bool:
    """Whether all are tokens with their scores, without a loop in Python."""
    if not set(map(type, pieces)) <= {list, tuple} or not set(map(len, pieces)) <= {2}:
        return False
    tokens, scores = map(itemgetter(0), pieces), map(itemgetter(1), pieces)
    return set(map(type, tokens)) <= {str} and set(map(type, scores)) <= {int, float}
