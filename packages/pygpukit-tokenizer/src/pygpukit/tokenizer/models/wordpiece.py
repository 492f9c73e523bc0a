"""WordPiece: the longest known piece first, again and again."""

from __future__ import annotations

from pygpukit.tokenizer.models.base import vocab_from_spec
from pygpukit.tokenizer.models.wordlevel import WordLevel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygpukit.tokenizer.models.base import Token
    from pygpukit.tokenizer.spec import Spec


class WordPiece(WordLevel):
    """Greedy pieces from the left, those after the first with a prefix.

    A word that is too long, or that the vocabulary can't be matched with to the end, is one unknown
    token.
    """

    __slots__ = ("_longest", "_max_chars", "_prefix")

    def __init__(
        self,
        vocab: dict[str, int],
        unk_token: str,
        continuing_subword_prefix: str,
        max_input_chars_per_word: int,
    ) -> None:
        super().__init__(vocab, unk_token)
        self._prefix = continuing_subword_prefix
        self._max_chars = max_input_chars_per_word
        self._longest = max(map(len, vocab), default=0)

    @classmethod
    def from_spec(cls, spec: Spec) -> WordPiece:
        return cls(
            vocab_from_spec(spec),
            spec.get("unk_token", str),
            spec.get("continuing_subword_prefix", str),
            spec.natural("max_input_chars_per_word"),
        )

    def _pieces(self, word: str) -> list[str]:
        """The pieces as the vocabulary spells them; none where the word is unknown."""
        length = len(word)
        if length > self._max_chars:
            return []
        pieces = []
        start = 0
        prefix = ""
        while start < length:
            end = min(length, start + self._longest)
            while start < end and prefix + word[start:end] not in self._vocab:
                end -= 1
            if start == end:
                return []
            pieces.append(prefix + word[start:end])
            start = end
            prefix = self._prefix
        return pieces

    def ids(self, word: str) -> Sequence[int]:
        pieces = self._pieces(word)
        return [self._vocab[piece] for piece in pieces] if pieces else (self.unknown(),)

    def tokens(self, word: str) -> list[Token]:
        pieces = self._pieces(word)
        if not pieces:
            return [(self.unknown(), self._unk_token, 0, len(word.encode()))]
        tokens = []
        prefix = len(self._prefix.encode())
        position = 0
        for i, piece in enumerate(pieces):
            end = position + len(piece.encode()) - (prefix if i else 0)
            tokens.append((self._vocab[piece], piece, position, end))
            position = end
        return tokens
