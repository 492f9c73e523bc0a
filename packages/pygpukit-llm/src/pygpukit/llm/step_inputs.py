"""What a step of prompts and tokens reads, brought to the device by one copy."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from pygpukit.core import Tensor
from pygpukit.llm.request import Request
from pygpukit.llm.slots import NO_PAGE, table

__all__ = ["Extent", "Part", "StepInputs"]


class Part(NamedTuple):
    """Consecutive positions of one sequence, whose ids are all known.

    Attributes:
        request: The sequence.
        start: The first position.
        length: How many.
        samples: Whether the id behind the last one is chosen.
        pages: All pages of the sequence.
    """

    request: Request
    start: int
    length: int
    samples: bool
    pages: Sequence[int]


class Extent(NamedTuple):
    """How much a step has, or has room for.

    Attributes:
        tokens: T, that go through the layers.
        wanted: R, whose results are wanted.
        sequences: S, rows of the block table. Tokens that only fill up are of the last one, which
            has no pages.
        width: P, pages of the longest sequence.
    """

    tokens: int
    wanted: int
    sequences: int
    width: int

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Extent:
        """What a step of these parts has."""
        return cls(
            sum(part.length for part in parts),
            sum(part.samples for part in parts),
            len(parts),
            max(len(part.pages) for part in parts),
        )

    @property
    def size(self) -> int:
        """Numbers of all that a step reads."""
        return self.sequences * self.width + 3 * self.tokens + self.wanted

    def numbers(self, parts: Sequence[Part]) -> array[int]:
        """What a step of these parts reads, filled up to this extent, int32."""
        lengths = [part.length for part in parts]
        spare = [0] * (self.tokens - sum(lengths))
        numbers = table([part.pages for part in parts], self.width, fill=NO_PAGE)
        numbers.extend(array("i", [NO_PAGE]) * (self.width * (self.sequences - len(parts))))
        for request, start, length, *_ in parts:
            numbers.fromlist(request.ids[start : start + length])
        numbers.fromlist(spare)
        for _, start, length, *_ in parts:
            numbers.fromlist([*range(start, start + length)])
        numbers.fromlist(spare)
        for row, length in enumerate(lengths):
            numbers.extend(array("i", [row]) * length)
        numbers.extend(array("i", [self.sequences - 1]) * len(spare))
        ends = accumulate(lengths)
        last = [end - 1 for end, part in zip(ends, parts, strict=True) if part.samples]
        numbers.extend(last + [0] * (self.wanted - len(last)))
        return numbers


class StepInputs(NamedTuple):
    """The tensors of a step.

    Attributes:
        ids: (T,) int32.
        positions: (T,) int32, in their sequences.
        sequences: (T,) int32, rows of `block_tables`.
        block_tables: (S, P) int32, pages of the cache.
        wanted: (R,) int32, the tokens whose results are wanted.
    """

    ids: Tensor
    positions: Tensor
    sequences: Tensor
    block_tables: Tensor
    wanted: Tensor

    @classmethod
    def within(cls, numbers: Tensor, extent: Extent) -> StepInputs:
        """Views of what `Extent.numbers` gives, int32."""
        start = extent.sequences * extent.width
        block_tables = numbers[:start].reshape(extent.sequences, extent.width)
        bounds = accumulate((*[extent.tokens] * 3, extent.wanted), initial=start)
        ids, positions, sequences, wanted = (numbers[a:b] for a, b in pairwise(bounds))
        return cls(ids, positions, sequences, block_tables, wanted)
