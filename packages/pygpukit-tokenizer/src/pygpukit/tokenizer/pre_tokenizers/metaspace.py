"""SentencePiece's pre-tokenizer."""

from __future__ import annotations

import re
from itertools import chain

from pygpukit.tokenizer.metaspace import read_metaspace
from pygpukit.tokenizer.pre_tokenizers.base import PreTokenizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.pre_tokenizers.base import Words
    from pygpukit.tokenizer.spec import Spec


class Metaspace(PreTokenizer):
    """Write spaces as ``replacement``, put one in front, and cut before each.

    ``scheme`` says where one is put in front, unless there is one already: before every piece
    ("always"), before what the original text begins with ("first"), or "never".
    """

    __slots__ = ("_words", "cuts", "replacement", "scheme")

    def __init__(self, replacement: str, scheme: str, *, split: bool) -> None:
        self.replacement = replacement
        self.scheme = scheme
        self.cuts = split
        mark = re.escape(replacement)
        self._words = re.compile(f"{mark}?[^{mark}]+|{mark}")

    @classmethod
    def from_spec(cls, spec: Spec) -> Metaspace:
        replacement, scheme, split = read_metaspace(spec)
        return cls(replacement, scheme, split=split)

    def needs_origins(self) -> bool:
        return self.scheme == "first"

    def split(self, pieces: list[str]) -> list[str]:
        marked = self._replaced(pieces)
        if self.scheme == "first" and marked and not marked[0].startswith(self.replacement):
            marked[0] = self.replacement + marked[0]
        return self._cut(marked)

    def split_later(self, pieces: list[str]) -> list[str]:
        return self._cut(self._replaced(pieces))

    def _replaced(self, pieces: list[str]) -> list[str]:
        mark = self.replacement
        pieces = [piece.replace(" ", mark) for piece in pieces]
        if self.scheme != "always":
            return pieces
        return [piece if piece.startswith(mark) else mark + piece for piece in pieces]

    def _cut(self, pieces: list[str]) -> list[str]:
        if not self.cuts:
            return pieces
        return list(chain.from_iterable(map(self._words.findall, pieces)))

    def only_prepends(self, words: list[str]) -> bool:
        """Whether it puts one replacement in front of each of these pieces and does no more."""
        text = "".join(words)
        return self.scheme == "always" and " " not in text and self.replacement not in text

    def words(self, piece: AlignedText) -> Words:
        piece = self._marked(piece)
        return piece, self._cut([piece.text]), None

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        pieces = [self._marked(piece) for piece in pieces]
        if not self.cuts:
            return pieces
        return [
            piece.slice(*match.span())
            for piece in pieces
            for match in self._words.finditer(piece.text)
        ]

    def _marked(self, piece: AlignedText) -> AlignedText:
        marked = piece.mapped(piece.text.replace(" ", self.replacement))
        prepends = self.scheme == "always" or (self.scheme == "first" and not piece.origin)
        if prepends and not marked.text.startswith(self.replacement):
            return marked.prepended(self.replacement)
        return marked
