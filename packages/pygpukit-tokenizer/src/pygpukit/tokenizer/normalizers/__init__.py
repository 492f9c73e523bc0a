"""Normalizers: rewrite a text before it is split."""

from __future__ import annotations

from pygpukit.tokenizer.normalizers.base import Normalizer
from pygpukit.tokenizer.normalizers.bert import BertNormalizer
from pygpukit.tokenizer.normalizers.edits import ByteLevel, Prepend, Replace, Strip
from pygpukit.tokenizer.normalizers.precompiled import Precompiled
from pygpukit.tokenizer.normalizers.unicode_forms import (
    NFC,
    NFD,
    NFKC,
    NFKD,
    Lowercase,
    Nmt,
    StripAccents,
)
from pygpukit.tokenizer.spec import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.spec import Spec

__all__ = ["NORMALIZERS", "Normalizer", "build_normalizer"]


class Sequence(Normalizer):
    """Normalizers one after the other."""

    __slots__ = ("normalizers",)

    def __init__(self, normalizers: list[Normalizer]) -> None:
        self.normalizers = normalizers

    @classmethod
    def from_spec(cls, spec: Spec) -> Sequence:
        return cls([build_normalizer(item) for item in spec.items("normalizers")])

    def normalize(self, text: str) -> str:
        for normalizer in self.normalizers:
            text = normalizer.normalize(text)
        return text

    def align(self, text: AlignedText) -> AlignedText:
        for normalizer in self.normalizers:
            text = normalizer.align(text)
        return text

    def inserts_in_front(self) -> bool:
        return any(normalizer.inserts_in_front() for normalizer in self.normalizers)


NORMALIZERS: dict[str, type[Normalizer]] = {
    "BertNormalizer": BertNormalizer,
    "ByteLevel": ByteLevel,
    "Lowercase": Lowercase,
    "NFC": NFC,
    "NFD": NFD,
    "NFKC": NFKC,
    "NFKD": NFKD,
    "Nmt": Nmt,
    "Precompiled": Precompiled,
    "Prepend": Prepend,
    "Replace": Replace,
    "Sequence": Sequence,
    "Strip": Strip,
    "StripAccents": StripAccents,
}
"""The normalizers by their names in the format."""


def build_normalizer(spec: Spec) -> Normalizer:
    """The normalizer that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    return build(NORMALIZERS, spec)
