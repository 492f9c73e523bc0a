"""Normalizers: rewrite a text before it is split."""

from __future__ import annotations

from pygpukit.tokenizer.normalizers.base import Normalizer
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


NORMALIZERS = {
    "BertNormalizer": f"{__name__}.bert",
    "ByteLevel": f"{__name__}.edits",
    "Lowercase": f"{__name__}.unicode_forms",
    "NFC": f"{__name__}.unicode_forms",
    "NFD": f"{__name__}.unicode_forms",
    "NFKC": f"{__name__}.unicode_forms",
    "NFKD": f"{__name__}.unicode_forms",
    "Nmt": f"{__name__}.unicode_forms",
    "Precompiled": f"{__name__}.precompiled",
    "Prepend": f"{__name__}.edits",
    "Replace": f"{__name__}.edits",
    "Sequence": __name__,
    "Strip": f"{__name__}.edits",
    "StripAccents": f"{__name__}.unicode_forms",
}
"""The modules of normalizers by their names in the format."""


def build_normalizer(spec: Spec) -> Normalizer:
    """The normalizer that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    normalizer: Normalizer = build(NORMALIZERS, spec)
    return normalizer
