"""The tokens that decoding puts together, by their ids."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pygpukit.tokenizer.added_tokens import AddedVocabulary
    from pygpukit.tokenizer.models import Model


class TokenTexts:
    """What decoding uses for ids: of added tokens their own form, None for ids to leave out.

    These are ids without a token, and with ``skip_special_tokens`` those of special ones, which are
    told by their text.
    """

    __slots__ = ("_added", "_model", "_skipped", "_table")

    def __init__(self, model: Model, added: AddedVocabulary, *, skip_special_tokens: bool) -> None:
        self._model = model
        self._added = added.decoded
        self._skipped = added.specials if skip_special_tokens else frozenset[str]()
        # All of them, made when many are asked for at once.
        self._table: list[str | None] | dict[int, str | None] | None = None

    def __getitem__(self, id: int) -> str | None:
        """The token of one id."""
        token = self._added.get(id)
        if token is None:
            token = self._model.id_to_token(id)
        return None if token in self._skipped else token

    def of(self, ids: Iterable[int]) -> list[str]:
        """The tokens of many ids, without those to leave out."""
        ids = list(ids)
        if self._table is None:
            self._table = self._build()
        find: Callable[[int], str | None] = self.__getitem__
        if isinstance(self._table, dict):
            find = self._table.get
        # A list takes ids below 0 for places from its end.
        elif min(ids, default=0) >= 0:
            find = self._table.__getitem__
        try:
            tokens = list(map(find, ids))
        except IndexError:
            tokens = list(map(self.__getitem__, ids))
        if None in tokens:
            tokens = [token for token in tokens if token is not None]
        return tokens  # type: ignore[return-value] # none of them is None

    def _build(self) -> list[str | None] | dict[int, str | None]:
        lookup = self._model.lookup
        if isinstance(lookup, dict):
            return {**lookup, **{id: self[id] for id in self._added}}
        table = lookup + [None] * (max(self._added, default=-1) + 1 - len(lookup))
        # Where tokens repeat, others than added ones may have the text of a special one.
        repeats = self._skipped and len(self._model.vocab) < len(lookup) - lookup.count(None)
        for id in range(len(table)) if repeats else self._added:
            table[id] = self[id]
        return table
