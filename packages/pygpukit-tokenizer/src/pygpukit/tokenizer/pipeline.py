"""From text to tokens: added tokens, normalizer, pre-tokenizer, model.

Two ways lead through the same components: ``ids`` on plain strings, and ``encode``, which keeps
track of where everything came from.
"""

from __future__ import annotations

from itertools import chain

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.byte_alphabet import ALPHABET, to_alphabet
from pygpukit.tokenizer.encoding import Encoding
from pygpukit.tokenizer.pre_tokenizers import ByteLevel, flattened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pygpukit.tokenizer.added_tokens import AddedVocabulary
    from pygpukit.tokenizer.models import Model
    from pygpukit.tokenizer.normalizers import Normalizer
    from pygpukit.tokenizer.pre_tokenizers import PreTokenizer

    Word = tuple[tuple[int, ...], tuple[str, ...], tuple[tuple[int, int], ...]]

_MAX_WORDS = 1 << 17
_MAX_WORD_LENGTH = 64
_SPELLED_SIZES = [len(char.encode()) for char in ALPHABET]


class IdCache(dict[str, "Sequence[int]"]):
    """The ids of words, computed when first asked for. Bounded: full, it starts over."""

    __slots__ = ("_compute",)

    def __init__(self, compute: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, word: str) -> Sequence[int]:
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
        self._normalizer = normalizer
        self._model = model
        steps = flattened(pre_tokenizer)
        self._splits = [step.split for step in steps]
        self._later_splits = [step.split_later for step in steps]
        self._aligned_splits = [step.split_aligned for step in steps]
        # Spelling words in the byte alphabet is left to the caches: it is done once for each.
        self._spells = False
        if steps and isinstance(steps[-1], ByteLevel):
            self._spells = True
            self._splits[-1] = self._later_splits[-1] = steps[-1].split_raw
            self._aligned_splits[-1] = steps[-1].split_raw_aligned
        # A step may ask where a piece comes from. Only the first to see the text knows without
        # keeping track.
        tracked = steps[1:] if normalizer is None else steps
        self._needs_origins = any(step.needs_origins() for step in tracked)
        self._cuts = model.cuts() and not self._spells
        self._ids_of = IdCache(model.spelled_ids if self._spells else model.ids).__getitem__
        self._tokens_of = WordCache(self._word_tokens).__getitem__

    # Ids only ------------------------------------------------------------------------------------

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of a text, without those that post-processing adds."""
        if self._needs_origins:
            return self.encode(text, type_id=0, parse_special=parse_special).ids
        ids: list[int] = []
        position = 0
        for start, end, token in self._added.raw.find(text) if parse_special else ():
            if position < start:
                ids += self._part_ids(text[position:start], position == 0, True)
            ids.append(token.id)
            position = end
        rest = text[position:] if position else text
        return ids + self._part_ids(rest, position == 0, parse_special)

    def _part_ids(self, text: str, first: bool, parse_special: bool) -> list[int]:
        """The ids of a part of the text, with the added tokens that match after normalizing."""
        if self._normalizer is not None:
            text = self._normalizer.normalize(text)
        ids: list[int] = []
        position = 0
        for start, end, token in self._added.normalized.find(text) if parse_special else ():
            if position < start:
                ids += self._piece_ids(text[position:start], first and position == 0)
            ids.append(token.id)
            position = end
        rest = text[position:] if position else text
        return ids + self._piece_ids(rest, first and position == 0)

    def _piece_ids(self, text: str, first: bool) -> list[int]:
        if not text:
            return []
        words = [text]
        for split in self._splits if first else self._later_splits:
            words = split(words)
        if self._cuts:
            words = list(chain.from_iterable(map(self._model.words, words)))
        return list(chain.from_iterable(map(self._ids_of, words)))

    # With offsets --------------------------------------------------------------------------------

    def encode(self, text: str, *, type_id: int, parse_special: bool) -> Encoding:
        """All that is known of the tokens of a text, before post-processing."""
        builder = _Builder()
        position = 0
        for start, end, token in self._added.raw.find(text) if parse_special else ():
            if position < start:
                self._encode_part(builder, AlignedText(text[position:start], position), True)
            builder.add_token(token.id, text[start:end], (start, end))
            position = end
        part = AlignedText(text[position:], position)
        self._encode_part(builder, part, parse_special)
        return Encoding(
            builder.ids, builder.tokens, builder.offsets, builder.words, type_id=type_id
        )

    def _encode_part(self, builder: _Builder, part: AlignedText, parse_special: bool) -> None:
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

    def _encode_piece(self, builder: _Builder, piece: AlignedText) -> None:
        words = [piece]
        for split in self._aligned_splits:
            words = split(words)
        for word in words:
            builder.next_word()
            if not self._cuts:
                builder.add(word, self._tokens_of(word.text))
                continue
            position = 0
            for part in self._model.words(word.text):
                end = position + len(part)
                builder.add(word.slice(position, end), self._tokens_of(part))
                position = end

    def _word_tokens(self, word: str) -> Word:
        """The tokens of a word with their spans in characters of it."""
        tokens = self._model.tokens(to_alphabet(word.encode()) if self._spells else word)
        if self._spells:
            chars = [
                i for i, c in enumerate(word) for b in c.encode() for _ in range(_SPELLED_SIZES[b])
            ]
        elif not word.isascii():
            chars = [i for i, c in enumerate(word) for _ in c.encode()]
        else:
            chars = list(range(len(word)))
        # Behind the last byte there may be tokens of none.
        chars.append(len(word))
        return (
            tuple([id for id, _, _, _ in tokens]),
            tuple([token for _, token, _, _ in tokens]),
            tuple([(chars[start], chars[end - 1] + 1) for _, _, start, end in tokens]),
        )


class _Builder:
    """Collects the tokens of an encoding."""

    __slots__ = ("_word", "ids", "offsets", "tokens", "words")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.tokens: list[str] = []
        self.offsets: list[tuple[int, int]] = []
        self.words: list[int | None] = []
        self._word = -1

    def next_word(self) -> None:
        """Begin a new word."""
        self._word += 1

    def add_token(self, id: int, token: str, span: tuple[int, int]) -> None:
        """An added token, which is a word of its own."""
        self.next_word()
        self.ids.append(id)
        self.tokens.append(token)
        self.offsets.append(span)
        self.words.append(self._word)

    def add(self, word: AlignedText, parts: Word) -> None:
        """The tokens of a pre-token, or of a part of one."""
        ids, tokens, spans = parts
        self.ids += ids
        self.tokens += tokens
        if word.spans is None:
            origin = word.origin
            self.offsets += [(origin + start, origin + end) for start, end in spans]
        else:
            self.offsets += [word.original(start, end) for start, end in spans]
        self.words += [self._word] * len(ids)
