"""What all normalizers have in common."""

from __future__ import annotations

from pygpukit.tokenizer.spec import Component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.aligned import AlignedText
    from pygpukit.tokenizer.unicode.mapping import CharacterMap


class Normalizer(Component):
    """Base of all normalizers.

    Each has two forms of one operation: ``normalize`` on a plain string, and ``align``, which keeps
    track of where every character came from.
    """

    __slots__ = ()

    def normalize(self, text: str) -> str:
        """The normalised text."""
        raise NotImplementedError

    def align(self, text: AlignedText) -> AlignedText:
        """The normalised text with its origins."""
        raise NotImplementedError

    def exchanges(self) -> bool:
        """Whether all that it does is to put certain characters in the places of others."""
        return False

    def inserts_in_front(self) -> bool:
        """Whether a text may begin, normalised, with characters that come from nowhere in it."""
        return False


class CharacterNormalizer(Normalizer):
    """A normalizer that rewrites every character on its own, as ``characters`` says."""

    __slots__ = ("characters",)

    def __init__(self, characters: CharacterMap) -> None:
        self.characters = characters

    def normalize(self, text: str) -> str:
        return text.translate(self.characters)

    def align(self, text: AlignedText) -> AlignedText:
        normalized = self.normalize(text.text)
        if normalized == text.text:
            return text
        return text.expanded(normalized, lambda char: self.characters[ord(char)])
