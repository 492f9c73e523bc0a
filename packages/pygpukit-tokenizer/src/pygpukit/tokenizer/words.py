"""The tokens of words, and what is remembered of them."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise

from pygpukit.tokenizer.builder import Skip, located
from pygpukit.tokenizer.byte_alphabet import ALPHABET, to_alphabet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from pygpukit.tokenizer.added_tokens import AddedToken
    from pygpukit.tokenizer.builder import Word
    from pygpukit.tokenizer.models import Model

_MAX_WORDS = 1 << 17
_MAX_WORD_LENGTH = 64
# Of a language, so many words are a small part.
_LITTLE = 1 << 12
_BACK = Skip(-1)
_CONTINUING = frozenset(ALPHABET[0x80:0xC0])
_SPELLED_SIZES = [len(char.encode()) for char in ALPHABET]


class WordTokenizer:
    """Finds the tokens of words with the steps over them.

    With ``spells``, the model sees the words spelled in the byte alphabet.
    """

    __slots__ = ("_char_counts", "_model", "_spells")

    def __init__(self, model: Model, *, spells: bool) -> None:
        self._model = model
        self._spells = spells
        self._char_counts = _CharCounts()

    def tokens(self, word: str) -> Word:
        """The tokens of a word with the steps over them."""
        model = self._model
        pieces = model.spelled_pieces(word) if self._spells else model.pieces(word)
        if pieces is None:
            return self._tokens_by_bytes(word)
        ids = model.piece_ids(pieces)
        tokens = tuple(pieces)
        if model.appended:
            pieces[-1] = pieces[-1][: -model.appended]
        if not self._spells or word.isascii():
            steps = tuple(map(len, pieces))
        else:
            steps = tuple(map(self._char_counts.__getitem__, pieces))
            if 0 in steps:
                bounds = list(accumulate(map(len, pieces), initial=0))
                chars = [i for i, char in enumerate(word) for _ in char.encode()]
                firsts = [chars[i] for i in bounds[:-1]]
                return located(ids, tokens, firsts, [chars[i - 1] for i in bounds[1:]], len(word))
        return ids, tokens, steps

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

    def prefixed_tokens(self, word: str) -> Word:
        """The same of a word whose first character was put in front: it has the next one's span."""
        ids, tokens, steps = self.tokens(word)
        first, *rest = steps
        # The next token may go back to that character too: where both are spelled in byte tokens.
        if type(first) is int and type(rest[0] if rest else 0) is int:
            return ids, tokens, (first - 1, *rest) if first > 1 else (1, _BACK, *rest)
        bounds = pairwise(accumulate(steps, initial=0))
        spans = [span for span, step in zip(bounds, steps, strict=True) if type(step) is int]
        firsts = [max(start - 1, 0) for start, _ in spans]
        return located(ids, tokens, firsts, [max(end - 2, 0) for _, end in spans], len(word) - 1)


class _Cache(dict["str | AddedToken", "Any"]):
    """What words give, computed when first asked for. Bounded: full, it starts over.

    Added tokens may be among the words, so that all of a text can be looked up at once.
    """

    __slots__ = ("_compute", "_compute_all")

    def __init__(
        self,
        compute: Callable[[str], Any],
        compute_all: Callable[[list[str]], Iterable[Any]] | None = None,
    ) -> None:
        super().__init__()
        self._compute = compute
        self._compute_all = compute_all or partial(map, compute)

    def of_added(self, token: AddedToken) -> Any:
        """What an added token gives."""
        raise NotImplementedError

    def __missing__(self, word: str | AddedToken) -> Any:
        if not isinstance(word, str):
            return self.setdefault(word, self.of_added(word))
        found = self._compute(word)
        if len(word) <= _MAX_WORD_LENGTH:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = found
        return found

    def learn(self, words: Iterable[str | AddedToken]) -> None:
        """Compute what isn't known of many words, as long as little is.

        In their order: what is looked up for words that begin alike is still in the processor's
        caches then. Later, finding the new words takes longer than that saves.
        """
        if len(self) >= _LITTLE:
            return
        new = [word for word in set(words) if word not in self]
        if len(self) + len(new) > _MAX_WORDS:
            return
        short = [word for word in new if isinstance(word, str) and len(word) <= _MAX_WORD_LENGTH]
        short.sort()
        self.update(zip(short, self._compute_all(short), strict=True))


class IdCache(_Cache):
    """The ids of words."""

    __slots__ = ()

    def of_added(self, token: AddedToken) -> Sequence[int]:
        return (token.id,)


class WordCache(_Cache):
    """The tokens of words with the steps over them."""

    __slots__ = ()

    def of_added(self, token: AddedToken) -> Word:
        return (token.id,), (token.content,), (len(token.content),)


class _CharCounts(dict[str, int]):
    """How many characters are in tokens of the byte alphabet; 0 if one begins inside of one."""

    __slots__ = ()

    def __missing__(self, token: str) -> int:
        inside = sum(map(_CONTINUING.__contains__, token))
        count = 0 if token[0] in _CONTINUING else len(token) - inside
        if len(self) < _MAX_WORDS and len(token) <= _MAX_WORD_LENGTH:
            self[token] = count
        return count
