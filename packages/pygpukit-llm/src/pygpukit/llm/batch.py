"""The sequences of one step and the device tensors that the step's kernels read and advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PagedCache, pages_for
from pygpukit.llm.sampling import SamplingParams

__all__ = ["Batch", "Request"]


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way.

    Attributes:
        ids: Prompt and output so far.
        prompt_length: How many of the ids are the prompt.
        limit: How many ids it may have in all.
        pages: Its pages of the cache, in order.
        done: Set by whoever reads the ids: the sequence leaves before the next step.
    """

    ids: list[int]
    prompt_length: int
    limit: int
    pages: list[int] = field(default_factory=list)
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
        self._device = device
        size = len(self.requests)
        capacity = max(request.limit for request in self.requests)
        history = np.zeros((size, capacity), np.int32)
        for row, request in enumerate(self.requests):
            history[row, : len(request.ids)] = request.ids
        self.history = self._tensor(history)
        self.token_ids = self._ints([request.ids[-1] for request in self.requests])
        self.positions = self._ints([len(request.ids) - 1 for request in self.requests])
        self.sequences = self._ints(range(size))
        self.block_tables = self._tensor(np.zeros((size, pages_for(capacity)), np.int32))
        self._prompt_lengths = self._ints([request.prompt_length for request in self.requests])
        self._penalties = self._tensor(
            np.tile(
                np.array(
                    [
                        params.repetition_penalty,
                        params.presence_penalty,
                        params.frequency_penalty,
                    ],
                    np.float32,
                ),
                (size, 1),
            )
        )
        self._temperature = self._filled(params.temperature, np.float32)
        self._top_k = self._filled(params.top_k, np.int32)
        self._top_p = self._filled(params.top_p, np.float32)
        self._min_p = self._filled(params.min_p, np.float32)
        self._seeds = self._filled(params.seed, np.int64)

    def reserve(self, positions_ahead: int, cache: PagedCache) -> None:
        """Gives every sequence pages for its next positions, up to its limit.

        Raises:
            OutOfMemoryError: The cache had to grow and couldn't.
        """
        missing = [request.missing_pages(positions_ahead) for request in self.requests]
        if sum(missing) > cache.free:
            cache.grow(sum(missing) - cache.free)
        tables = np.zeros(self.block_tables.shape, np.int32)
        for row, (request, count) in enumerate(zip(self.requests, missing, strict=True)):
            request.pages += [cache.take() for _ in range(count)]
            tables[row, : len(request.pages)] = request.pages
        self.block_tables.copy_(tables)

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
            logprobs = kernels.top_logprobs(unpenalized, ids, params.logprobs)
        kernels.advance(ids, self.token_ids, self.positions, self.history)
        return ids, logprobs

    def _ints(self, values: Sequence[int]) -> Tensor:
        return self._tensor(np.array(values, np.int32))

    def _filled(self, value: float, dtype: npt.DTypeLike) -> Tensor:
        return self._tensor(np.full(len(self.requests), value, dtype))

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return Tensor.from_numpy(array, device=self._device)
