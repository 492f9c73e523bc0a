"""What encoding a text gives."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Span = tuple[int, int]


class Encoding:
    """Token ids with everything known about them; all lists have the same length.

    Attributes:
        ids: token ids.
        type_ids: the sequence a token belongs to, as the post-processor numbers them.
        tokens: the tokens as the vocabulary spells them.
        offsets: ranges of characters of the original text; (0, 0) for added special tokens.
        word_ids: the index of the pre-token, None for special tokens and padding.
        special_tokens_mask: 1 for special tokens and padding that encoding added.
        attention_mask: 0 for padding, else 1.
        overflowing: what truncation cut off, in pieces of the same kind.
    """

    __slots__ = (
        "attention_mask",
        "ids",
        "offsets",
        "overflowing",
        "sequence_ranges",
        "special_tokens_mask",
        "tokens",
        "type_ids",
        "word_ids",
    )

    def __init__(
        self,
        ids: list[int],
        tokens: list[str],
        offsets: list[Span],
        word_ids: list[int | None],
        *,
        type_id: int = 0,
        special: bool = False,
    ) -> None:
        self.ids = ids
        self.tokens = tokens
        self.offsets = offsets
        self.word_ids = word_ids
        self.type_ids = [type_id] * len(ids)
        self.special_tokens_mask = [int(special)] * len(ids)
        self.attention_mask = [1] * len(ids)
        self.overflowing: list[Encoding] = []
        self.sequence_ranges: dict[int, Span] = {}

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Encoding({len(self.ids)} tokens, ids={self.ids!r})"

    @property
    def sequence_ids(self) -> list[int | None]:
        """For each token 0 or 1 for the text it comes from, None for added special tokens."""
        if not self.sequence_ranges:
            return [0] * len(self.ids)
        result: list[int | None] = [None] * len(self.ids)
        for sequence in range(len(self.sequence_ranges)):
            # As in the reference, a sequence of unknown range is taken for all there is.
            start, end = self.sequence_ranges.get(sequence, (0, len(self.ids)))
            result[start:end] = [sequence] * (end - start)
        return result

    # What post-processing does -------------------------------------------------------------------

    @classmethod
    def special(cls, ids: list[int], tokens: list[str], type_id: int = 0) -> Encoding:
        """Special tokens that stand for no text."""
        count = len(ids)
        return cls(
            list(ids), list(tokens), [(0, 0)] * count, [None] * count, type_id=type_id, special=True
        )

    @classmethod
    def empty(cls) -> Encoding:
        """No tokens."""
        return cls([], [], [], [])

    def slice(self, start: int, end: int) -> Encoding:
        """Some of the tokens, without overflowing parts."""
        part = Encoding(
            self.ids[start:end],
            self.tokens[start:end],
            self.offsets[start:end],
            self.word_ids[start:end],
        )
        part.type_ids = self.type_ids[start:end]
        part.special_tokens_mask = self.special_tokens_mask[start:end]
        part.attention_mask = self.attention_mask[start:end]
        return part

    def copy(self) -> Encoding:
        """An independent copy."""
        twin = self.slice(0, len(self.ids))
        twin.overflowing = [part.copy() for part in self.overflowing]
        twin.sequence_ranges = dict(self.sequence_ranges)
        return twin

    def set_sequence(self, sequence: int, type_id: int | None = None) -> None:
        """Say that all the tokens come from one of the texts."""
        self.sequence_ranges[sequence] = (0, len(self.ids))
        if type_id is not None:
            self.type_ids = [type_id] * len(self.ids)

    def extend(self, other: Encoding) -> None:
        """Append another encoding; overflowing parts of both combine with each other."""
        overflowing = []
        for mine in self.overflowing:
            overflowing.append(_joined(mine, other))
            overflowing += [_joined(mine, theirs) for theirs in other.overflowing]
        overflowing += [_joined(self, theirs) for theirs in other.overflowing]
        shift = len(self.ids)
        for sequence, (start, end) in other.sequence_ranges.items():
            self.sequence_ranges[sequence] = (start + shift, end + shift)
        self.ids += other.ids
        self.tokens += other.tokens
        self.offsets += other.offsets
        self.word_ids += other.word_ids
        self.type_ids += other.type_ids
        self.special_tokens_mask += other.special_tokens_mask
        self.attention_mask += other.attention_mask
        self.overflowing = overflowing

    def pad(self, length: int, pad_id: int, type_id: int, token: str, *, left: bool) -> None:
        """Fill up to ``length`` tokens, overflowing parts too."""
        for part in self.overflowing:
            part.pad(length, pad_id, type_id, token, left=left)
        count = length - len(self.ids)
        if count <= 0:
            return
        padding = Encoding.special([pad_id] * count, [token] * count, type_id)
        padding.attention_mask = [0] * count
        overflowing, self.overflowing = self.overflowing, []
        if left:
            padding.extend(self)
            for name in self.__slots__:
                setattr(self, name, getattr(padding, name))
        else:
            self.extend(padding)
        self.overflowing = overflowing


def _joined(first: Encoding, second: Encoding) -> Encoding:
    result = first.copy()
    result.extend(second.copy())
    return result


def merged(parts: Iterable[Encoding]) -> Encoding:
    """The parts one after the other."""
    result = Encoding.empty()
    for part in parts:
        result.extend(part)
    return result
