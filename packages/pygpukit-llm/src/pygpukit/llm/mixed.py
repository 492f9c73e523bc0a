"""Captured steps of prompts and tokens together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from pygpukit.core import Device, Graph, MemoryPool, Tensor
from pygpukit.llm.cache import PagedCache
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.step_inputs import Extent, Part, StepInputs

__all__ = ["MixedSteps", "alone"]

KEPT = 36
"""Captured steps that are kept, as many as 512 tokens with up to 64 that stand alone need."""

LEAST = Extent(tokens=64, wanted=8, sequences=16, width=16)
"""Room that captured steps have at least, of results beside those of tokens that stand alone."""


class _Key(NamedTuple):
    """What a step is captured for.

    Attributes:
        extent: All that it has room for.
        alone: Tokens at the front that it takes for the only ones of their sequences.
    """

    extent: Extent
    alone: int


def alone(parts: Sequence[Part]) -> int:
    """How many parts at the front are of one token."""
    return next((row for row, part in enumerate(parts) if part.length > 1), len(parts))


class MixedSteps:
    """Steps of prompts and tokens that are captured where they are short and come again.

    The number of tokens, and of those that stand alone, is rounded up, so that a few graphs do for
    all steps; tokens that only fill up belong to no sequence. All graphs work in the same memory.

    Args:
        decoder: The model.
        device: Where it runs.
        most_tokens: Of a step that is captured.
    """

    def __init__(self, decoder: Decoder, device: Device, most_tokens: int) -> None:
        self._decoder = decoder
        self._device = device
        self._most_tokens = most_tokens
        self._least = LEAST
        self.forget()

    def forget(self) -> None:
        """Drops the captured steps: the cache is to be replaced."""
        self._arena = MemoryPool(self._device)
        self._numbers: Tensor | None = None  # what a captured step reads
        self._seen: set[_Key] = set()
        self._graphs: OrderedDict[_Key, tuple[Graph, Tensor]] = OrderedDict()

    def forward(self, parts: Sequence[Part], extent: Extent, cache: PagedCache) -> Tensor | None:
        """Runs a step, which has `extent`, if its like has been captured or comes again.

        Returns:
            The residual stream behind the last layer at the end of each part that samples,
            (R, hidden), until the next step; None if the step is to be run otherwise.
        """
        if extent.tokens > self._most_tokens:
            return None
        key = self._key(extent, alone(parts))
        if extent.wanted > key.extent.wanted:
            return None
        if key not in self._seen:
            self._seen.add(key)
            return None
        numbers = key.extent.numbers(parts)
        if self._numbers is None:
            most = key.extent._replace(tokens=self._most_tokens, wanted=self._most_tokens)
            self._numbers = Tensor.empty((most.size,), "int32", pool=self._arena)
        self._numbers[: len(numbers)].copy_(numbers)
        graph, hidden = self._captured(key, StepInputs.within(self._numbers, key.extent), cache)
        graph.replay()
        return hidden[: extent.wanted]

    def _key(self, extent: Extent, alone: int) -> _Key:
        """The step to capture for one that has so much; what is captured already must have room."""
        sequences = max(self._least.sequences, _doubled(extent.sequences + 1))
        width = max(self._least.width, _doubled(extent.width))
        if (sequences, width) != self._least[2:]:
            self._least = self._least._replace(sequences=sequences, width=width)
            self.forget()
        tokens = _multiple(extent.tokens, 64 if extent.tokens <= 128 else 128)
        tokens = min(tokens, self._most_tokens)
        alone = _multiple(alone, 8 if alone <= 32 else 16 if alone <= 64 else 32)
        alone = min(alone, tokens)
        wanted = min(alone + LEAST.wanted, tokens)
        return _Key(Extent(tokens, wanted, sequences, width), alone)

    def _captured(self, key: _Key, inputs: StepInputs, cache: PagedCache) -> tuple[Graph, Tensor]:
        if key not in self._graphs:
            with self._device.controller.capture(self._arena) as graph:
                hidden = self._decoder.forward(
                    *inputs[:4], cache, wanted=inputs.wanted, alone=key.alone
                )
            self._graphs[key] = graph, hidden
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]


def _multiple(least: int, of: int) -> int:
    return -(-least // of) * of


def _doubled(least: int) -> int:
    """The power of two that isn't less."""
    return 1 << (least - 1).bit_length()
