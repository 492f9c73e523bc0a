"""The sequences of one step and the device tensors that the step's kernels read and advance."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PagedCache, pages_for
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.tensors import floats, ints, longs

__all__ = ["Batch", "Request"]


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way.

    Attributes:
        ids: Prompt and output so far.
        prompt_length: How many of the ids are the prompt.
        limit: How many ids it may have in all.
        pages: Its pages of the cache, in order.
        cached: How many of its ids have their keys and values in the cache.
        done: Set by whoever reads the ids: the sequence leaves before the next step.
    """

    ids: list[int]
    prompt_length: int
    limit: int
    pages: list[int] = field(default_factory=list)
    cached: int = 0
    done: bool = False

    def missing_pages(self, positions_ahead: int) -> int:
        """Pages it lacks for that many positions beyond its ids, up to its limit."""
        positions = min(len(self.ids) + positions_ahead, self.limit)
        return max(0, pages_for(positions) - len(self.pages))


class Batch:
    """The state of S sequences between two steps, on the device.

    `token_ids[s]` at `positions[s]` is what the next step feeds; `history[s]` has all ids up to
    there. The step's last kernel moves them on, so that a captured step can be replayed as it is.

    Args:
        requests: The sequences.
        params: How their tokens are chosen.
        device: Where the state lives.
    """

    def __init__(self, requests: Sequence[Request], params: SamplingParams, device: Device) -> None:
        self.requests = list(requests)
        self.params = params
        size = len(self.requests)
        capacity = max(request.limit for request in self.requests)
        self.history = ints(
            _rows([request.ids for request in self.requests], capacity), device
        ).reshape(size, capacity)
        self.token_ids = ints([request.ids[-1] for request in self.requests], device)
        self.positions = ints([len(request.ids) - 1 for request in self.requests], device)
        self.sequences = ints(range(size), device)
        self.block_tables = Tensor.zeros((size, pages_for(capacity)), "int32", device=device)
        self._prompt_lengths = ints([request.prompt_length for request in self.requests], device)
        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        self._penalties = floats(penalties * size, device).reshape(size, 3)
        self._temperature = floats([params.temperature] * size, device)
        self._top_k = ints([params.top_k] * size, device)
        self._top_p = floats([params.top_p] * size, device)
        self._min_p = floats([params.min_p] * size, device)
        self._seeds = longs([params.seed] * size, device)

    def reserve(self, positions_ahead: int, cache: PagedCache) -> None:
        """Gives every sequence pages for its next positions, up to its limit.

        Raises:
            OutOfMemoryError: The cache had to grow and couldn't.
        """
        missing = [request.missing_pages(positions_ahead) for request in self.requests]
        if sum(missing) > cache.free:
            cache.grow(sum(missing) - cache.free)
        for request, count in zip(self.requests, missing, strict=True):
            request.pages += [cache.take() for _ in range(count)]
        pages = [request.pages for request in self.requests]
        self.block_tables.reshape(-1).copy_(_rows(pages, self.block_tables.shape[1]))

    def choose(self, logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Chooses each sequence's next id from its logits, (S, vocab_size), and moves on to it.

        Returns:
            The ids, (S,) int32, -1 where a logit was NaN or infinite; and the log-probabilities of
            `kernels.top_logprobs` where they are asked for.
        """
        params = self.params
        unpenalized = logits
        if params.penalized:
            if params.logprobs is not None:
                unpenalized = kernels.gather_rows(logits, self.sequences)
            kernels.penalize(
                logits, self.history, self.positions, self._prompt_lengths, self._penalties
            )
        if params.greedy:
            ids = kernels.argmax(logits)
        else:
            ids = kernels.sample(
                logits,
                self.positions,
                self._temperature,
                self._top_k,
                self._top_p,
                self._min_p,
                self._seeds,
            )
        logprobs = None
        if params.logprobs is not None:
            count = min(params.logprobs, logits.shape[1])
            logprobs = kernels.top_logprobs(unpenalized, ids, count)
        kernels.advance(ids, self.token_ids, self.positions, self.history)
        return ids, logprobs


def _rows(rows: Sequence[Sequence[int]], width: int) -> array[int]:
    """The rows one after another, each filled up with zeros to `width`."""
    table = array("i", bytes(4 * len(rows) * width))
    for row, values in enumerate(rows):
        table[row * width : row * width + len(values)] = array("i", values)
    return table
