"""From text to tokens: added tokens, normalizer, pre-tokenizer, model.

Two ways lead through the same components: ``ids`` on plain strings, and ``encode``, which keeps
track of where everything came from.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise, repeat

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.builder import EncodingBuilder, Skip, located
from pygpukit.tokenizer.byte_alphabet import ALPHABET, to_alphabet
from pygpukit.tokenizer.collection import CollectionPaused
from pygpukit.tokenizer.pre_tokenizers import ByteLevel, Metaspace, flattened
from pygpukit.tokenizer.pre_tokenizers.base import Cutter
from pygpukit.tokenizer.pre_tokenizers.fusing import fused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pygpukit.tokenizer.added_tokens import AddedToken, AddedVocabulary
    from pygpukit.tokenizer.builder import Word
    from pygpukit.tokenizer.encoding import Encoding
    from pygpukit.tokenizer.models import Model
    from pygpukit.tokenizer.normalizers import Normalizer
    from pygpukit.tokenizer.pre_tokenizers import PreTokenizer
    from pygpukit.tokenizer.pre_tokenizers.base import Words

    SplitFunction = Callable[[list[str]], list[str]]
    WordList = tuple[AlignedText, list[str], Iterable[int] | None, Callable[[str], Word]]

_MAX_WORDS = 1 << 17
_MAX_WORD_LENGTH = 64
# The tokens of so many characters are more objects than it takes to start a collection.
_LONG_TEXT = 1 << 14
_BACK = Skip(-1)
_CONTINUING = frozenset(ALPHABET[0x80:0xC0])
_SPELLED_SIZES = [len(char.encode()) for char in ALPHABET]


class IdCache(dict["str | AddedToken", "Sequence[int]"]):
    """The ids of words, computed when first asked for. Bounded: full, it starts over.

    Added tokens may be among the words, so that all of a text can be looked up at once.
    """

    __slots__ = ("_compute",)

    def __init__(self, compute: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, word: str | AddedToken) -> Sequence[int]:
        if not isinstance(word, str):
            return (word.id,)
        ids = self._compute(word)
        if len(word) <= _MAX_WORD_LENGTH:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


class WordCache(dict[str, "Word"]):
    """The same for words with tokens and spans."""

    def __init__(self, compute: Callable[[str], Word]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, word: str) -> Word:
        tokens = self._compute(word)
        if len(word) <= _MAX_WORD_LENGTH:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


class CharCounts(dict[str, int]):
    """How many characters are in tokens of the byte alphabet; 0 if one begins inside of one."""

    __slots__ = ()

    def __missing__(self, token: str) -> int:
        inside = sum(map(_CONTINUING.__contains__, token))
        count = 0 if token[0] in _CONTINUING else len(token) - inside
        if len(self) < _MAX_WORDS and len(token) <= _MAX_WORD_LENGTH:
            self[token] = count
        return count


class Pipeline:
    """The encoding half of a tokenizer, up to post-processing."""

    def __init__(
        self,
        added: AddedVocabulary,
        normalizer: Normalizer | None,
        pre_tokenizer: PreTokenizer | None,
        model: Model,
    ) -> None:
        self._added = added
        self._finds_normalized = added.normalized.has_tokens()
        self._normalizer = normalizer
        self._model = model
        steps = flattened(pre_tokenizer)
        self._splits: list[SplitFunction] = [step.split for step in steps]
        self._later_splits: list[SplitFunction] = [step.split_later for step in steps]
        # What comes from nowhere is spelled in a way of its own.
        strays = normalizer is not None and normalizer.inserts_in_front()
        strays = strays and any(isinstance(step, ByteLevel) for step in steps)
        # Spelling words in the byte alphabet is left to the caches: it is done once for each.
        last = steps[-1] if steps else None
        spelling = last if isinstance(last, ByteLevel) and not strays else None
        self._spells = spelling is not None
        if spelling is not None:
            self._splits[-1] = self._later_splits[-1] = spelling.split_raw
        # None of the steps that this takes together does anything else for later pieces.
        count, split = fused([step.as_split() if step is spelling else step for step in steps])
        if split is not None:
            self._splits[:count] = self._later_splits[:count] = [split]
        # A step may ask where a piece comes from. Only the first to see the text knows without
        # keeping track.
        tracked = steps[1:] if normalizer is None else steps
        self._needs_origins = strays or any(step.needs_origins() for step in tracked)
        self._cuts = model.cuts() and not self._spells
        self._ids_of = IdCache(model.spelled_ids if self._spells else model.ids).__getitem__
        self._tokens_of = WordCache(self._word_tokens).__getitem__
        self._char_counts = CharCounts()
        self._prefixed_tokens_of = WordCache(self._prefixed_tokens).__getitem__
        # Whether it is worth to try if the words are the whole text, which tells their places.
        self._covers = not self._needs_origins and all(
            isinstance(step, Cutter) or (step is spelling and not spelling.add_prefix_space)
            for step in steps
        )
        # The words of the last step that cuts are handled as lists; one behind it may mark them.
        if spelling is not None and spelling.only_spells():
            steps.pop()
        self._marks: Metaspace | None = None
        if len(steps) > 1 and isinstance(steps[-1], Metaspace) and not self._cuts:
            self._marks = steps[-1]
            steps.pop()
        self._last_words = _whole
        # Behind the last step whose words come with their places, steps that only cut these.
        self._cut_again: list[SplitFunction] = []
        while len(steps) > 1 and not strays and (cutter := _cutter(steps[-1], spelling)):
            self._cut_again.insert(0, cutter.split)
            steps.pop()
        if steps and not strays:
            last = steps.pop()
            self._last_words = spelling.raw_words if last is spelling else last.words
        self._aligned_splits = [step.split_aligned for step in steps]

    # Ids only ------------------------------------------------------------------------------------

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of a text, without those that post-processing adds."""
        if self._needs_origins:
            return self.encode(text, type_id=0, parse_special=parse_special).ids
        if len(text) < _LONG_TEXT:
            return self._text_ids(text, parse_special)
        with CollectionPaused():
            return self._text_ids(text, parse_special)

    def _text_ids(self, text: str, parse_special: bool) -> list[int]:
        words: list[str | AddedToken] = []
        position = 0
        for start, end, token in self._added.raw.find(text) if parse_special else ():
            if position < start:
                words += self._part_words(text[position:start], position == 0, True)
            words.append(token)
            position = end
        rest = text[position:] if position else text
        words += self._part_words(rest, position == 0, parse_special)
        return list(chain.from_iterable(map(self._ids_of, words)))

    def _part_words(
        self, text: str, first: bool, parse_special: bool
    ) -> Sequence[str | AddedToken]:
        """The words of a part of the text, with the added tokens that match after normalizing."""
        if self._normalizer is not None:
            text = self._normalizer.normalize(text)
        if not self._finds_normalized:
            return self._piece_words(text, first)
        words: list[str | AddedToken] = []
        position = 0
        for start, end, token in self._added.normalized.find(text) if parse_special else ():
            if position < start:
                words += self._piece_words(text[position:start], first and position == 0)
            words.append(token)
            position = end
        rest = text[position:] if position else text
        words += self._piece_words(rest, first and position == 0)
        return words

    def _piece_words(self, text: str, first: bool) -> list[str]:
        if not text:
            return []
        words = [text]
        for split in self._splits if first else self._later_splits:
            words = split(words)
        if self._cuts:
            cut = self._model.words
            return cut(words[0]) if len(words) == 1 else list(chain.from_iterable(map(cut, words)))
        return words

    # With offsets --------------------------------------------------------------------------------

    def encode(self, text: str, *, type_id: int, parse_special: bool) -> Encoding:
        """All that is known of the tokens of a text, before post-processing."""
        builder = EncodingBuilder()
        position = 0
        with CollectionPaused(when=len(text) >= _LONG_TEXT):
            for start, end, token in self._added.raw.find(text) if parse_special else ():
                if position < start:
                    self._encode_part(builder, AlignedText(text[position:start], position), True)
                builder.add_token(token.id, text[start:end], (start, end))
                position = end
            part = AlignedText(text[position:], position)
            self._encode_part(builder, part, parse_special)
            return builder.build(type_id)

    def _encode_part(
        self, builder: EncodingBuilder, part: AlignedText, parse_special: bool
    ) -> None:
        if self._normalizer is not None:
            part = self._normalizer.align(part)
            # What was dropped in front no longer counts as part of the text.
            part = part.slice(0, len(part.text))
        text = part.text
        position = 0
        for start, end, token in self._added.normalized.find(text) if parse_special else ():
            if position < start:
                self._encode_piece(builder, part.slice(position, start))
            builder.add_token(token.id, text[start:end], part.original(start, end))
            position = end
        if position < len(text):
            self._encode_piece(builder, part.slice(position, len(text)) if position else part)

    def _encode_piece(self, builder: EncodingBuilder, piece: AlignedText) -> None:
        for rewritten, words, gaps, tokens_of in self._word_lists(piece):
            sizes = None
            if self._cuts:
                parts = list(map(self._model.words, words))
                sizes = list(map(len, parts))
                words = list(chain.from_iterable(parts))
                if gaps is not None:
                    # Nothing is left out inside of a pre-token.
                    gaps = chain.from_iterable(
                        (gap, *repeat(0, size - 1)) for gap, size in zip(gaps, sizes, strict=True)
                    )
            builder.add(rewritten, list(map(tokens_of, words)), gaps, sizes)

    def _word_lists(self, piece: AlignedText) -> Iterator[WordList]:
        """The pre-tokens of a piece, as the last step that cuts them gives them, in lists."""
        if self._covers:
            words = [piece.text]
            for cut in self._splits:
                words = cut(words)
            if sum(map(len, words)) == len(piece.text):
                yield piece, words, None, self._tokens_of
                return
            self._covers = False
        pieces = [piece]
        for split in self._aligned_splits:
            pieces = split(pieces)
        for last in pieces:
            rewritten, words, gaps = self._last_words(last)
            for cut in self._cut_again:
                words, gaps = _cut_further(cut, words, gaps)
            marks = self._marks
            if marks is None:
                yield rewritten, words, gaps, self._tokens_of
            elif marks.only_prepends(words):
                marked = [marks.replacement + word for word in words]
                yield rewritten, marked, gaps, self._prefixed_tokens_of
            else:
                end = 0
                for gap, word in zip(repeat(0) if gaps is None else gaps, words, strict=False):
                    start = end + gap
                    end = start + len(word)
                    yield *marks.words(rewritten.slice(start, end)), self._tokens_of

    def _word_tokens(self, word: str) -> Word:
        """The tokens of a word with the steps over them."""
        model = self._model
        pieces = model.spelled_pieces(word) if self._spells else model.pieces(word)
        if pieces is None:
            return self._tokens_by_bytes(word)
        ids = model.piece_ids(pieces)
        if not self._spells or word.isascii():
            steps = tuple(map(len, pieces))
        else:
            steps = tuple(map(self._char_counts.__getitem__, pieces))
            if 0 in steps:
                bounds = list(accumulate(map(len, pieces), initial=0))
                chars = [i for i, char in enumerate(word) for _ in char.encode()]
                firsts = [chars[i] for i in bounds[:-1]]
                return located(ids, pieces, firsts, [chars[i - 1] for i in bounds[1:]], len(word))
        return ids, tuple(pieces), steps

    def _tokens_by_bytes(self, word: str) -> Word:
        tokens = self._model.tokens(to_alphabet(word.encode()) if self._spells else word)
        if self._spells:
            chars = [
                i for i, c in enumerate(word) for b in c.encode() for _ in range(_SPELLED_SIZES[b])
            ]
        else:
            chars = [i for i, c in enumerate(word) for _ in c.encode()]
        return located(
            [id for id, _, _, _ in tokens],
            [token for _, token, _, _ in tokens],
            # Tokens of no bytes share the character before them.
            [chars[min(start, end - 1)] for _, _, start, end in tokens],
            [chars[end - 1] for _, _, _, end in tokens],
            len(word),
        )

    def _prefixed_tokens(self, word: str) -> Word:
        """The same of a word whose first character was put in front: it has the next one's span."""
        ids, tokens, steps = self._word_tokens(word)
        first, *rest = steps
        if type(first) is int and first > 1:
            return ids, tokens, (first - 1, *rest)
        if type(first) is int and type(rest[0]) is int:
            return ids, tokens, (1, _BACK, *rest)
        bounds = pairwise(accumulate(steps, initial=0))
        spans = [span for span, step in zip(bounds, steps, strict=True) if type(step) is int]
        firsts = [max(start - 1, 0) for start, _ in spans]
        return located(ids, tokens, firsts, [max(end - 2, 0) for _, end in spans], len(word) - 1)


def _whole(piece: AlignedText) -> Words:
    """The words where there is no pre-tokenizer."""
    return piece, [piece.text], None


def _cutter(step: PreTokenizer, spelling: ByteLevel | None) -> Cutter | None:
    """The step if it cuts without leaving anything out, before it spells if it is ``spelling``."""
    if step is spelling:
        return spelling.as_split()
    return step if isinstance(step, Cutter) and step.keeps_all() else None


def _cut_further(
    cut: SplitFunction, words: list[str], gaps: Iterable[int] | None
) -> tuple[list[str], Iterable[int] | None]:
    """What a step that leaves nothing out makes of words, with the gaps in front of that."""
    parts = cut(words)
    if gaps is None or len(parts) == len(words):
        return parts, gaps
    found = []
    sizes = map(len, parts)
    for gap, word in zip(gaps, words, strict=True):
        left = len(word)
        while left:
            found.append(0 if left < len(word) else gap)
            left -= next(sizes)
    return parts, found
