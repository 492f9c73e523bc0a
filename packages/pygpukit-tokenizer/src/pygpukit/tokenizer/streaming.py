"""Decoding ids as a model produces them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.decoders import Step
    from pygpukit.tokenizer.token_texts import TokenTexts


class DecodeStream:
    """Decodes ids one at a time, in linear time.

    The pieces add up to what decoding all the ids at once gives. A character of several tokens is
    held back until it is complete or can't become valid.
    """

    __slots__ = ("_step", "_texts")

    def __init__(self, step: Step, texts: TokenTexts) -> None:
        self._step = step
        self._texts = texts

    def step(self, id: int) -> str:
        """The text that ``id`` completes, perhaps "". Ids without a token give ""."""
        token = self._texts[id]
        return "" if token is None else "".join(self._step.push(token))

    def flush(self) -> str:
        """End the stream: what was held back. The stream can be used again afterwards."""
        return "".join(self._step.flush())
