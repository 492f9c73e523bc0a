"""Decoders: turn tokens back into text, all at once or as they come."""

from __future__ import annotations

from pygpukit.tokenizer.decoders.base import Chain, Decoder, Step
from pygpukit.tokenizer.decoders.byte_level import ByteLevel
from pygpukit.tokenizer.decoders.fusing import NoDecoder
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


DECODERS = {
    "BPEDecoder": f"{__name__}.simple",
    "ByteFallback": f"{__name__}.fusing",
    "ByteLevel": f"{__name__}.byte_level",
    "CTC": f"{__name__}.simple",
    "Fuse": f"{__name__}.fusing",
    "Metaspace": f"{__name__}.simple",
    "Replace": f"{__name__}.simple",
    "Sequence": __name__,
    "Strip": f"{__name__}.simple",
    "WordPiece": f"{__name__}.simple",
}
"""The modules of decoders by their names in the format."""


def build_decoder(spec: Spec) -> Decoder:
    """The decoder that ``spec`` describes.

    Raises:
        TokenizerLoadError: unknown or wrong.
    """
    decoder: Decoder = build(DECODERS, spec)
    return decoder
