"""What the pipeline asks of a model."""

from __future__ import annotations

from pygpukit.tokenizer.byte_alphabet import to_alphabet
from pygpukit.tokenizer.spec import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pygpukit.tokenizer.spec import Spec

    Token = tuple[int, str, int, int]
    Lookup = list[str | None] | dict[int, str]


class Model(Component):
    """Base of all models.

    Attributes:
        appended: how many characters the last of ``pieces`` has behind the end of the word.
    """

    __slots__ = ()

    appended: int = 0

    def to_spec(self) -> dict[str, Any]:
        """What isn't kept as the file has it, in the format's own spelling."""
        return {}

    @property
    def vocab(self) -> Mapping[str, int]:
        """All tokens and their ids; not to be changed."""
        raise NotImplementedError

    @property
    def lookup(self) -> Lookup:
        """The tokens by their ids; None at places of a list that no token has."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many ids the vocabulary takes up: added tokens get the next ones."""
        return len(self.vocab)

    def id_to_token(self, id: int) -> str | None:
        """The token of an id, or None."""
        if id < 0:
            return None
        try:
            return self.lookup[id]
        except LookupError:
            return None

    def cuts(self) -> bool:
        """Whether ``words`` cuts pre-tokens."""
        return False

    def words(self, text: str) -> list[str]:
        """A pre-token in parts that can be tokenized one by one."""
        return [text]

    def ids(self, word: str) -> Sequence[int]:
        """The ids of one pre-token."""
        raise NotImplementedError

    def pieces(self, word: str) -> list[str] | None:
        """The tokens of one pre-token if together they spell it, which is the common case.

        None where that isn't so, or isn't known without going to the length of ``tokens``.
        """
        return None

    def piece_ids(self, pieces: list[str]) -> tuple[int, ...]:
        """The ids of what ``pieces`` gave."""
        return tuple(map(self.vocab.__getitem__, pieces))

    def spelled_pieces(self, word: str) -> list[str] | None:
        """The same of a pre-token that is yet to be spelled in the byte alphabet."""
        return self.pieces(to_alphabet(word.encode()))

    def tokens(self, word: str) -> list[Token]:
        """The tokens of one pre-token as (id, token, start, end).

        Start and end count bytes of the word in UTF-8, as the reference does.
        """
        raise NotImplementedError

    def spelled_ids(self, word: str) -> Sequence[int]:
        """The ids of a pre-token that is yet to be spelled in the byte alphabet."""
        return self.ids(to_alphabet(word.encode()))

    def all_ids(self, words: Sequence[str], *, spelled: bool) -> Iterator[Sequence[int]]:
        """The ids of each of many pre-tokens, with ``spelled`` as ``spelled_ids`` gives them."""
        return map(self.spelled_ids if spelled else self.ids, words)


class Remembered(dict[str, "tuple[str, ...]"]):
    """What is made of texts, computed when first asked for; of so many it is kept."""

    __slots__ = ("_compute", "_limit")

    def __init__(self, compute: Callable[[str], tuple[str, ...]], limit: int) -> None:
        super().__init__()
        self._compute = compute
        self._limit = limit

    def __missing__(self, text: str) -> tuple[str, ...]:
        found = self._compute(text)
        if len(self) < self._limit:
            self[text] = found
        return found


def vocab_from_spec(spec: Spec) -> dict[str, int]:
    """The ``vocab`` of a model that has one by token.

    Raises:
        TokenizerLoadError: an id isn't a natural number.
    """
    child = spec.child("vocab")
    vocab: dict[str, int] = child.as_type(dict)
    if not set(map(type, vocab.values())) <= {int} or min(vocab.values(), default=0) < 0:
        wrong = next(t for t, id in vocab.items() if type(id) is not int or id < 0)
        raise child.error(f"the id of {wrong!r} isn't a natural number: {vocab[wrong]!r}")
    return vocab


def tokens_by_id(vocab: Mapping[str, int]) -> Lookup:
    """Something to look tokens up in by id: a list unless most of it would be empty."""
    ids = list(vocab.values())
    if ids == list(range(len(ids))):
        return list(vocab)
    last = max(ids)
    if last >= 2 * len(ids):
        return {id: token for token, id in vocab.items()}
    table: list[str | None] = [None] * (last + 1)
    for token, id in vocab.items():
        table[id] = token
    return table
