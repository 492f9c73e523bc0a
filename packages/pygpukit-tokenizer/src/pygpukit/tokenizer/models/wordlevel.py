"""One token for each word."""

from __future__ import annotations

from pygpukit.tokenizer.models.base import Model, tokens_by_id, vocab_from_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pygpukit.tokenizer.models.base import Lookup, Token
    from pygpukit.tokenizer.spec import Spec


class WordLevel(Model):
    """Whole pre-tokens; what isn't in the vocabulary is the unknown token."""

    __slots__ = ("_unk_id", "_unk_token", "_vocab", "lookup")

    def __init__(self, vocab: dict[str, int], unk_token: str) -> None:
        self._vocab = vocab
        self.lookup: Lookup = tokens_by_id(vocab)
        self._unk_token = unk_token
        self._unk_id = vocab.get(unk_token)

    @classmethod
    def from_spec(cls, spec: Spec) -> WordLevel:
        return cls(vocab_from_spec(spec), spec.get("unk_token", str))

    @property
    def vocab(self) -> Mapping[str, int]:
        return self._vocab

    def unknown(self) -> int:
        """The id of the unknown token.

        Raises:
            ValueError: the vocabulary has none.
        """
        if self._unk_id is None:
            raise ValueError(f"unknown token {self._unk_token!r} isn't in the vocabulary")
        return self._unk_id

    def ids(self, word: str) -> Sequence[int]:
        id = self._vocab.get(word)
        return (self.unknown() if id is None else id,)

    def tokens(self, word: str) -> list[Token]:
        known = word in self._vocab
        (id,) = self.ids(word)
        return [(id, word if known else self._unk_token, 0, len(word.encode()))]
