"""What the pipeline asks of a model."""

from __future__ import annotations

from pygpukit.tokenizer.spec import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Token = tuple[int, str, int, int]


class Model(Component):
    """Base of all models."""

    __slots__ = ()

    @property
    def vocab(self) -> Mapping[str, int]:
        """All tokens and their ids; not to be changed."""
        raise NotImplementedError

    def id_to_token(self, id: int) -> str | None:
        """The token of an id, or None."""
        raise NotImplementedError

    def ids(self, word: str) -> Sequence[int]:
        """The ids of one pre-token."""
        raise NotImplementedError

    def tokens(self, word: str) -> list[Token]:
        """The tokens of one pre-token as (id, token, start, end).

        Start and end count bytes of the word in UTF-8, as the reference does.
        """
        raise NotImplementedError

    def ids_of_bytes(self, data: bytes) -> Sequence[int]:
        """The ids of the pre-token that spells ``data`` in the byte alphabet."""
        raise NotImplementedError


def tokens_by_id(vocab: Mapping[str, int]) -> Sequence[str] | Mapping[int, str]:
    """Something to look tokens up in by id: a list where the ids are 0, 1, 2, ... in order."""
    if list(vocab.values()) == list(range(len(vocab))):
        return list(vocab)
    return {id: token for token, id in vocab.items()}
