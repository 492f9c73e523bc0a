"""What all pre-tokenizers have in common."""

from __future__ import annotations

from itertools import chain

from pygpukit.tokenizer.spec import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Series

    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.onig.nodes import Chars, Repeat

    Span = tuple[int, int]
    Words = tuple[AlignedText, list[str], Iterable[int] | None]

BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


class PreTokenizer(Component):
    """Base of all pre-tokenizers.

    Each works on plain strings (``split``, the fast path) and on aligned text (``split_aligned``).
    """

    __slots__ = ()

    def needs_origins(self) -> bool:
        """Whether only aligned text tells it what to do, unless it is the first of all."""
        return False

    def split(self, pieces: list[str]) -> list[str]:
        """Cut every piece further; empty pieces are dropped."""
        raise NotImplementedError

    def split_later(self, pieces: list[str]) -> list[str]:
        """The same for pieces that the original text doesn't begin with."""
        return self.split(pieces)

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        """The same with the origins of the characters."""
        raise NotImplementedError

    def words(self, piece: AlignedText) -> Words:
        """One piece as it is rewritten, the parts it is cut into, and the gaps between them.

        These are how many characters are left out in front of each part; None if none are, nor
        behind the last one.
        """
        raise NotImplementedError


class Cutter(PreTokenizer):
    """A pre-tokenizer that only chooses where to cut and what to leave out."""

    __slots__ = ()

    def isolated_run(self, ascii_only: bool) -> Chars | Repeat | None:
        """If all that it does is to isolate runs of characters of a set, these, else None.

        A ``Repeat`` is one of ``Chars``, at least one. The set is one of ASCII if ``ascii_only``.
        """
        return None

    def keeps_all(self) -> bool:
        """Whether it surely leaves nothing out."""
        return False

    def cut(self, text: str) -> Iterable[str]:
        """The pieces of one text."""
        return [text[start:end] for start, end in self.cuts(text)]

    def cuts(self, text: str) -> Iterable[Span]:
        """The non-empty pieces of one text as spans."""
        raise NotImplementedError

    def split(self, pieces: list[str]) -> list[str]:
        if len(pieces) == 1:
            return list(self.cut(pieces[0]))
        return list(chain.from_iterable(map(self.cut, pieces)))

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        return [piece.slice(start, end) for piece in pieces for start, end in self.cuts(piece.text)]

    def words(self, piece: AlignedText) -> Words:
        text = piece.text
        spans = list(self.cuts(text))
        return piece, [text[start:end] for start, end in spans], gaps_before(spans)


def gaps_before(spans: Iterable[Span]) -> Iterable[int]:
    """How many characters are left out in front of each span."""
    gaps = []
    position = 0
    for start, end in spans:
        gaps.append(start - position)
        position = end
    return gaps


def arrange(parts: Series[tuple[int, int, bool]], behavior: str) -> list[Span]:
    """Join or drop delimiters as the behavior says; empty results are dropped.

    ``parts`` are the matches and what is between them, as (start, end, whether it's a delimiter).
    """
    if behavior == "Removed":
        return [(start, end) for start, end, delimiter in parts if not delimiter and start < end]
    if behavior == "Isolated":
        return [(start, end) for start, end, _ in parts if start < end]
    reverse = behavior == "MergedWithNext"
    joined: list[list[int]] = []
    previous = False
    for start, end, delimiter in reversed(parts) if reverse else parts:
        same = delimiter == previous if behavior == "Contiguous" else delimiter and not previous
        if same and joined:
            joined[-1][0 if reverse else 1] = start if reverse else end
        else:
            joined.append([start, end])
        previous = delimiter
    if reverse:
        joined.reverse()
    return [(start, end) for start, end in joined if start < end]
