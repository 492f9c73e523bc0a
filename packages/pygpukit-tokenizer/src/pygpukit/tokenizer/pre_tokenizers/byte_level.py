"""GPT-2's pre-tokenizer."""

from __future__ import annotations

from functools import cache

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.byte_alphabet import each_to_alphabet, spelled, to_alphabet
from pygpukit.tokenizer.onig import Pattern
from pygpukit.tokenizer.pre_tokenizers.base import PreTokenizer
from pygpukit.tokenizer.pre_tokenizers.splits import Split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.pre_tokenizers.base import Words
    from pygpukit.tokenizer.spec import Spec

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class ByteLevel(PreTokenizer):
    """GPT-2's: optionally a space in front, optionally GPT-2's pattern, then the byte alphabet."""

    __slots__ = ("add_prefix_space", "use_regex")

    def __init__(self, *, add_prefix_space: bool, use_regex: bool = True) -> None:
        self.add_prefix_space = add_prefix_space
        self.use_regex = use_regex

    @classmethod
    def from_spec(cls, spec: Spec) -> ByteLevel:
        spec.get("trim_offsets", bool)
        return cls(
            add_prefix_space=spec.get("add_prefix_space", bool),
            use_regex=spec.get("use_regex", bool, True),
        )

    def only_spells(self) -> bool:
        """Whether it neither cuts nor puts anything in front."""
        return not self.add_prefix_space and not self.use_regex

    def as_split(self) -> Split | None:
        """The split that it makes before it spells, if that is all."""
        return _gpt2_split() if self.use_regex and not self.add_prefix_space else None

    def split(self, pieces: list[str]) -> list[str]:
        return each_to_alphabet(self.split_raw(pieces))

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        return [_spelled(piece) for piece in self.split_raw_aligned(pieces)]

    def words(self, piece: AlignedText) -> Words:
        piece, words, _ = self.raw_words(piece)
        spelled_words = each_to_alphabet(words)
        return piece.expanded("".join(spelled_words), spelled), spelled_words, None

    def raw_words(self, piece: AlignedText) -> Words:
        """The words before they are spelled in the byte alphabet."""
        if self.add_prefix_space and piece.text[0] != " ":
            piece = piece.prepended(" ")
        return _gpt2_split().words(piece) if self.use_regex else (piece, [piece.text], None)

    def split_raw(self, pieces: list[str]) -> list[str]:
        """The pieces before they are spelled in the byte alphabet."""
        if self.add_prefix_space:
            pieces = [piece if piece[0] == " " else " " + piece for piece in pieces]
        return _gpt2_split().split(pieces) if self.use_regex else pieces

    def split_raw_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        """The same with origins."""
        if self.add_prefix_space:
            pieces = [piece if piece.text[0] == " " else piece.prepended(" ") for piece in pieces]
        return _gpt2_split().split_aligned(pieces) if self.use_regex else pieces


def _spelled(piece: AlignedText) -> AlignedText:
    text = to_alphabet(piece.text.encode())
    if not piece.comes_from_nowhere():
        return piece.expanded(text, spelled)
    # The reference writes to where the original is found in the piece: here an empty range, in
    # front of the text that should have been replaced.
    text += piece.text
    place = [piece.starts[0]] * len(text)
    return AlignedText(text, piece.origin, place, place)


@cache
def _gpt2_split() -> Split:
    return Split(Pattern.from_source(GPT2_PATTERN), "Isolated")
