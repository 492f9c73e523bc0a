"""Normalizers: rewrite a text before it is split.

Each has two forms of one operation: ``normalize`` on a plain string, and ``align``, which keeps
track of where every character came from.
"""

from __future__ import annotations

from pygpukit.tokenizer.spec import Component, build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.spec import Spec


class Normalizer(Component):
    """Base of all normalizers."""

    __slots__ = ()

    def normalize(self, text: str) -> str:
        """The normalised text."""
        raise NotImplementedError

    def align(self, text: AlignedText) -> AlignedText:
        """The normalised text with its origins."""
        raise NotImplementedError


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


class NFC(Normalizer):
    """Canonical composition, as the reference's normalization tables have it."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> NFC:
        return cls()

    def normalize(self, text: str) -> str:
        if text.isascii():
            return text
        from pygpukit.tokenizer.unicode.normalization import compose

        return compose(text)

    def align(self, text: AlignedText) -> AlignedText:
        if text.text.isascii():
            return text
        from pygpukit.tokenizer.unicode.normalization import compose, composition_changes

        if compose(text.text) == text.text:
            return text
        return text.replaced(composition_changes(text.text))


NORMALIZERS: dict[str, type[Normalizer]] = {"NFC": NFC, "Sequence": Sequence}
"""The normalizers by their names in the format."""


def build_normalizer(spec: Spec) -> Normalizer:
    """The normalizer that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    return build(NORMALIZERS, spec)
