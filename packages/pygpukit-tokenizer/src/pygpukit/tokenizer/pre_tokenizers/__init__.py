"""Pre-tokenizers: cut a text into the pieces that the model tokenizes one by one."""

from __future__ import annotations

from pygpukit.tokenizer.pre_tokenizers.base import PreTokenizer
from pygpukit.tokenizer.pre_tokenizers.byte_level import ByteLevel
from pygpukit.tokenizer.pre_tokenizers.metaspace import Metaspace
from pygpukit.tokenizer.spec import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.spec import Spec

__all__ = [
    "PRE_TOKENIZERS",
    "ByteLevel",
    "Metaspace",
    "PreTokenizer",
    "build_pre_tokenizer",
    "flattened",
]


class Sequence(PreTokenizer):
    """Pre-tokenizers one after the other."""

    __slots__ = ("pretokenizers",)

    def __init__(self, pretokenizers: list[PreTokenizer]) -> None:
        self.pretokenizers = pretokenizers

    @classmethod
    def from_spec(cls, spec: Spec) -> Sequence:
        return cls([build_pre_tokenizer(item) for item in spec.items("pretokenizers")])

    def split(self, pieces: list[str]) -> list[str]:
        for pre_tokenizer in self.pretokenizers:
            pieces = pre_tokenizer.split(pieces)
        return pieces

    def split_aligned(self, pieces: list[AlignedText]) -> list[AlignedText]:
        for pre_tokenizer in self.pretokenizers:
            pieces = pre_tokenizer.split_aligned(pieces)
        return pieces


PRE_TOKENIZERS = {
    "BertPreTokenizer": f"{__name__}.splits",
    "ByteLevel": f"{__name__}.byte_level",
    "CharDelimiterSplit": f"{__name__}.splits",
    "Digits": f"{__name__}.splits",
    "FixedLength": f"{__name__}.splits",
    "Metaspace": f"{__name__}.metaspace",
    "Punctuation": f"{__name__}.splits",
    "Sequence": __name__,
    "Split": f"{__name__}.splits",
    "UnicodeScripts": f"{__name__}.scripts",
    "Whitespace": f"{__name__}.splits",
    "WhitespaceSplit": f"{__name__}.splits",
}
"""The modules of pre-tokenizers by their names in the format."""


def build_pre_tokenizer(spec: Spec) -> PreTokenizer:
    """The pre-tokenizer that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    pre_tokenizer: PreTokenizer = build(PRE_TOKENIZERS, spec)
    return pre_tokenizer


def flattened(pre_tokenizer: PreTokenizer | None) -> list[PreTokenizer]:
    """The steps of nested sequences in one list."""
    if pre_tokenizer is None:
        return []
    if isinstance(pre_tokenizer, Sequence):
        return [step for inner in pre_tokenizer.pretokenizers for step in flattened(inner)]
    return [pre_tokenizer]
