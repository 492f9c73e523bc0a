"""Decoders: turn tokens back into text, all at once or as they come."""

from __future__ import annotations

from pygpukit.tokenizer.decoders.base import Chain, Decoder, Step
from pygpukit.tokenizer.decoders.byte_level import ByteLevel
from pygpukit.tokenizer.decoders.fusing import ByteFallback, Fuse, NoDecoder
from pygpukit.tokenizer.decoders.simple import (
    CTC,
    BPEDecoder,
    Metaspace,
    Replace,
    Strip,
    WordPiece,
)
from pygpukit.tokenizer.spec import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.spec import Spec

__all__ = ["DECODERS", "ByteLevel", "Decoder", "NoDecoder", "Step", "build_decoder"]


class Sequence(Chain):
    """Decoders one after the other."""

    __slots__ = ()

    @classmethod
    def from_spec(cls, spec: Spec) -> Sequence:
        return cls([build_decoder(item) for item in spec.items("decoders")])


DECODERS: dict[str, type[Decoder]] = {
    "BPEDecoder": BPEDecoder,
    "ByteFallback": ByteFallback,
    "ByteLevel": ByteLevel,
    "CTC": CTC,
    "Fuse": Fuse,
    "Metaspace": Metaspace,
    "Replace": Replace,
    "Sequence": Sequence,
    "Strip": Strip,
    "WordPiece": WordPiece,
}
"""The decoders by their names in the format."""


def build_decoder(spec: Spec) -> Decoder:
    """The decoder that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    return build(DECODERS, spec)
