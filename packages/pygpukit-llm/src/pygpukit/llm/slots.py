"""The sequences that decode together, and what a step's kernels read and advance of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PAGE_SIZE, pages_for
from pygpukit.llm.request import Request
from pygpukit.llm.sampler import Kind, Sampler
from pygpukit.llm.tensors import ints

__all__ = ["Slots", "block_table", "table"]

NO_PAGE = -1
"""Stands for a page in a row of no sequence: its kernels read and write nothing."""

NEAR = 1 << 14
"""Numbers between two spans that are copied with them: it takes no longer than a copy more."""


class Slots:
    """The state of up to `capacity` sequences between two steps, on the device.

    `token_ids[s]` at `positions[s]` is what the next step feeds; `history[s]` has all ids up to
    there where penalties need them. The step's last kernel moves them on, so that a captured step
    can be replayed as it is. Rows behind those of the requests belong to no sequence.

    Args:
        capacity: How many sequences there can be.
        length: How many ids a sequence can have, rounded up to whole pages.
        penalized: Whether penalties may be needed.
        bias_width: Of the vocabulary where sequences may be constrained, else 0.
        device: Where the state lives.
    """

    def __init__(
        self, capacity: int, length: int, penalized: bool, bias_width: int, device: Device
    ) -> None:
        self.capacity = capacity
        self.length = pages_for(length) * PAGE_SIZE
        self.penalized = penalized
        self.bias_width = bias_width
        self.requests: list[Request] = []
        self.kind = Kind.of([], 0)
        self.token_ids = ints([0] * capacity, device)
        self.positions = ints([0] * capacity, device)
        self.sequences = ints(range(capacity), device)
        self.block_tables = Tensor.empty((capacity, pages_for(length)), "int32", device=device)
        self._page_numbers: array[int] = array("i")  # what the block tables hold
        columns = self.length if penalized else 1
        self._history = Tensor.zeros((capacity, columns), "int32", device=device)
        self._sampler = Sampler(capacity, device, bias_width)

    def fit(self, rows: int, length: int, penalized: bool, bias_width: int) -> bool:
        """Whether that many sequences of that length have a place."""
        found = self.capacity, self.length, self.penalized, self.bias_width
        wanted = rows, length, penalized, bias_width
        return all(have >= want for have, want in zip(found, wanted, strict=True))

    def load(
        self, requests: Sequence[Request], pages: Sequence[Sequence[int]], vocab_size: int
    ) -> None:
        """Takes these sequences in place of those before; all their ids are known.

        Args:
            requests: The sequences.
            pages: For each its pages.
            vocab_size: Of the model.
        """
        rows = len(requests)
        self.requests = list(requests)
        self.kind = Kind.of(requests, vocab_size)
        self.token_ids[:rows].copy_(array("i", [request.ids[-1] for request in requests]))
        self.positions[:rows].copy_(array("i", [len(request.ids) - 1 for request in requests]))
        width = self.block_tables.shape[1]
        pages = [*pages, *[()] * (self.capacity - rows)]
        self._page_numbers = table(pages, width, fill=NO_PAGE)
        self.block_tables.reshape(-1).copy_(self._page_numbers)
        if self.kind.penalized:
            ids = table([request.ids for request in requests], self.length)
            self._history[:rows].reshape(-1).copy_(ids)
        self._sampler.set(requests, self.kind)

    def has_columns(self, grown: tuple[int, int, int]) -> bool:
        """Whether a row of `StepPlan.grown` has room for its new page."""
        return grown[2] < self.block_tables.shape[1]

    def add_pages(self, grown: Iterable[tuple[int, int, Sequence[int]]]) -> None:
        """Gives sequences more pages.

        Args:
            grown: For each its row, how many pages it has, and which ones come behind them; none
                if it has just been cancelled.
        """
        tables, width = self.block_tables.reshape(-1), self.block_tables.shape[1]
        spans = []
        for row, first, pages in grown:
            start = row * width + first
            self._page_numbers[start : start + len(pages)] = array("i", pages)
            if pages:
                spans.append((start, start + len(pages)))
        for start, end in joined(spans, NEAR):
            tables[start:end].copy_(self._page_numbers[start:end])

    def constrain(self) -> None:
        """Takes what the next ids of the sequences may be."""
        if self.kind.constrained:
            self._sampler.constrain(self.requests)

    def choose(self, logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Chooses the next id of the first rows, those of `logits`, and moves on to it.

        Returns:
            As `Sampler.choose`.
        """
        rows = slice(0, logits.shape[0])
        positions, history = self.positions[rows], self._history[rows]
        ids, logprobs = self._sampler.choose(logits, self.kind, positions, history)
        kernels.advance(ids, self.token_ids[rows], positions, history)
        return ids, logprobs


def joined(spans: Iterable[tuple[int, int]], near: int) -> list[tuple[int, int]]:
    """The spans, beginning and end, in order; one in place of those that are no further apart."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start - found[-1][1] <= near:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def block_table(pages: Sequence[Sequence[int]], device: Device) -> Tensor:
    """The pages of some sequences, (S, P) int32."""
    width = max(map(len, pages))
    return ints(table(pages, width, fill=NO_PAGE), device).reshape(len(pages), width)


def table(rows: Sequence[Sequence[int]], width: int, fill: int = 0) -> array[int]:
    """The rows one after another, each filled up to `width`."""
    numbers = array("i", [fill]) * (len(rows) * width)
    for row, values in enumerate(rows):
        numbers[row * width : row * width + len(values)] = array("i", values)
    return numbers
