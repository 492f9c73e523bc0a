"""From text to tokens: added tokens, normalizer, pre-tokenizer, model.

Two ways lead through the same components: ``ids`` on plain strings, and ``encode``, which keeps
track of where everything came from.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, repeat

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.builder import EncodingBuilder
from pygpukit.tokenizer.byte_alphabet import each_to_alphabet, spelled
from pygpukit.tokenizer.collection import CollectionPaused
from pygpukit.tokenizer.pre_tokenizers import ByteLevel, Metaspace, flattened
from pygpukit.tokenizer.pre_tokenizers.base import Cutter
from pygpukit.tokenizer.pre_tokenizers.fusing import fused
from pygpukit.tokenizer.words import IdCache, WordCache, WordTokenizer

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

    Found = tuple[int, int, AddedToken]
    SplitFunction = Callable[[list[str]], list[str]]
    WordList = tuple[AlignedText, list[str], Iterable[int] | None, WordCache]

# The tokens of so many characters are more objects than it takes to start a collection.
_LONG_TEXT = 1 << 14
_MANY_WORDS = 1 << 12
# What so many characters show can be seen in little time.
_BEGINNING = 1 << 10


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
        # Whether a part of the text, normalised, is that part of the normalised text.
        self._exchanges = normalizer is None or normalizer.exchanges()
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
        self._id_cache = IdCache(
            model.spelled_ids if self._spells else model.ids,
            partial(model.all_ids, spelled=self._spells),
        )
        self._ids_of = self._id_cache.__getitem__
        words = WordTokenizer(model, spells=self._spells)
        self._word_cache = WordCache(words.tokens)
        self._prefixed_word_cache = WordCache(words.prefixed_tokens)
        # Whether it is worth to try if the words are the whole text, which tells their places.
        self._covers = not self._needs_origins and all(
            isinstance(step, Cutter) or (step is spelling and not spelling.add_prefix_space)
            for step in steps
        )
        self._cuts_around_spelling = None
        if not self._needs_origins:
            self._cuts_around_spelling = _cuts_around_spelling(steps)
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
            return self._text_ids(text, parse_special, learn=True)

    def _text_ids(self, text: str, parse_special: bool, *, learn: bool = False) -> list[int]:
        found = self._added.raw.find(text) if parse_special else ()
        if self._exchanges:
            text = self._normalized(text)
        parts = []
        position = 0
        for start, end, _ in found:
            parts.append(text[position:start])
            position = end
        parts.append(text[position:] if position else text)
        each = self._words_of_each(parts, parse_special)
        words = [*next(each)]
        for (_, _, token), more in zip(found, each, strict=True):
            words.append(token)
            words += more
        if learn:
            self._id_cache.learn(words)
        return list(chain.from_iterable(map(self._ids_of, words)))

    def _words_of_each(
        self, parts: list[str], parse_special: bool
    ) -> Iterator[Sequence[str | AddedToken]]:
        """The words of each part of a text; normalised ones if normalizing exchanges characters."""
        part_words = self._normalized_words if self._exchanges else self._part_words
        first, *later = parts
        yield part_words(first, True, parse_special)
        only_cuts = self._exchanges and not self._finds_normalized and self._cuts
        # The lines of a text may be so many parts that what is done for each counts.
        if only_cuts and all(split(later) is later for split in self._later_splits):
            yield from map(self._model.words, later)
        else:
            for part in later:
                yield part_words(part, False, parse_special)

    def _part_words(
        self, text: str, first: bool, parse_special: bool
    ) -> Sequence[str | AddedToken]:
        return self._normalized_words(self._normalized(text), first, parse_special)

    def _normalized(self, text: str) -> str:
        return text if self._normalizer is None else self._normalizer.normalize(text)

    def _normalized_words(
        self, text: str, first: bool, parse_special: bool
    ) -> Sequence[str | AddedToken]:
        """The words of a normalised part of the text, with the added tokens that match in it."""
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
        with CollectionPaused(when=len(text) >= _LONG_TEXT):
            builder = EncodingBuilder()
            raw = self._added.raw
            found = raw.find(text) if parse_special else []
            plain = self._exchanges and not self._finds_normalized
            plain = plain and (not found or raw.only_finds())
            if not (plain and self._covers and self._encode_at_once(builder, text, found)):
                self._encode_parts(builder, text, found, parse_special)
            return builder.build(type_id)

    def _encode_at_once(self, builder: EncodingBuilder, text: str, found: list[Found]) -> bool:
        """Encode a text whose words and added tokens together are all of it; False if not."""
        normalized = self._normalized(text)
        if not self._may_cover(normalized):
            return False
        words: list[str | AddedToken] = []
        parts: list[int] = []
        position = 0
        for start, end, token in [*found, (len(text), len(text), None)]:
            if position < start:
                pieces = _covering([normalized[position:start]], self._splits)
                if pieces is None:
                    self._covers = False
                    return False
                if self._cuts:
                    for piece in pieces:
                        cut = self._model.words(piece)
                        words += cut
                        parts.append(len(cut))
                else:
                    words += pieces
            if token is not None:
                words.append(token)
                parts.append(1)
            position = end
        tokens = _looked_up(self._word_cache, words)
        builder.add(AlignedText(text), tokens, None, parts if self._cuts else None)
        return True

    def _may_cover(self, text: str) -> bool:
        """Whether the words may be all of the text, as far as its beginning tells."""
        if self._covers and len(text) > _BEGINNING:
            self._covers = _covering([text[:_BEGINNING]], self._splits) is not None
        return self._covers

    def _encode_parts(
        self, builder: EncodingBuilder, text: str, found: list[Found], parse_special: bool
    ) -> None:
        position = 0
        for start, end, token in found:
            if position < start:
                self._encode_part(builder, AlignedText(text[position:start], position), True)
            builder.add_token(token.id, text[start:end], (start, end))
            position = end
        part = AlignedText(text[position:], position)
        self._encode_part(builder, part, parse_special)

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
        for rewritten, words, gaps, cache in self._word_lists(piece):
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
            builder.add(rewritten, _looked_up(cache, words), gaps, sizes)

    def _word_lists(self, piece: AlignedText) -> Iterator[WordList]:
        """The pre-tokens of a piece, as the last step that cuts them gives them, in lists."""
        if self._may_cover(piece.text):
            words = _covering([piece.text], self._splits)
            if words is not None:
                yield piece, words, None, self._word_cache
                return
            self._covers = False
        if self._cuts_around_spelling is not None:
            found = _spelled_words(piece, *self._cuts_around_spelling)
            if found is not None:
                yield *found, None, self._word_cache
                return
            self._cuts_around_spelling = None
        pieces = [piece]
        for split in self._aligned_splits:
            pieces = split(pieces)
        for last in pieces:
            rewritten, words, gaps = self._last_words(last)
            for cut in self._cut_again:
                words, gaps = _cut_further(cut, words, gaps)
            marks = self._marks
            if marks is None:
                yield rewritten, words, gaps, self._word_cache
            elif marks.only_prepends(words):
                marked = [marks.replacement + word for word in words]
                yield rewritten, marked, gaps, self._prefixed_word_cache
            else:
                end = 0
                for gap, word in zip(repeat(0) if gaps is None else gaps, words, strict=False):
                    start = end + gap
                    end = start + len(word)
                    yield *marks.words(rewritten.slice(start, end)), self._word_cache


def _looked_up(cache: WordCache, words: Sequence[str | AddedToken]) -> list[Word]:
    """What words give, those of a long text learned first."""
    if len(words) >= _MANY_WORDS:
        cache.learn(words)
    return list(map(cache.__getitem__, words))


def _whole(piece: AlignedText) -> Words:
    """The words where there is no pre-tokenizer."""
    return piece, [piece.text], None


def _covering(texts: list[str], splits: list[SplitFunction]) -> list[str] | None:
    """What steps cut texts into; None where they leave something out."""
    words = texts
    for split in splits:
        words = split(words)
    return words if sum(map(len, words)) == sum(map(len, texts)) else None


def _cuts_around_spelling(
    steps: list[PreTokenizer],
) -> tuple[list[SplitFunction], list[SplitFunction]] | None:
    """What cuts before a step spells words and what cuts these, where there is nothing else."""
    at = next((i for i, step in enumerate(steps[:-1]) if isinstance(step, ByteLevel)), None)
    if at is None:
        return None
    spelling, others = steps[at], [*steps[:at], *steps[at + 1 :]]
    if not isinstance(spelling, ByteLevel) or spelling.add_prefix_space:
        return None
    if not all(isinstance(step, Cutter) for step in others):
        return None
    before: list[SplitFunction] = [*(step.split for step in steps[:at]), spelling.split_raw]
    after: list[SplitFunction] = [step.split for step in steps[at + 1 :]]
    return before, after


def _spelled_words(
    piece: AlignedText, before: list[SplitFunction], after: list[SplitFunction]
) -> tuple[AlignedText, list[str]] | None:
    """A piece as it is spelled, and its words; None where the steps leave something out."""
    raw_words = _covering([piece.text], before)
    if raw_words is None:
        return None
    spelled_words = each_to_alphabet(raw_words)
    words = _covering(spelled_words, after)
    return None if words is None else (piece.expanded("".join(words), spelled), words)


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
