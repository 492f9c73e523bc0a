"""The decode loop: the prompt in chunks, then one captured step replayed for each token."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Device, Fetch, Graph, Tensor
from pygpukit.llm.batch import Batch, Request
from pygpukit.llm.cache import PagedCache, pages_for
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.errors import LogitsError
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.tensors import ints

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Engine", "Token"]

LOGITS_CHUNK = 64
"""Rows of logits computed at once where all are wanted."""

GROWTH = 256
"""Positions that the cache begins with where the output's length is open; then it doubles."""


_UNSOUND = (
    "the model computed a NaN or infinite logit; its weights are damaged, or its activations leave "
    "the range of the arithmetic"
)


class Token(NamedTuple):
    """A new id of a request, already among its ids."""

    request: Request
    id: int
    logprobs: TokenLogprobs | None


class Engine:
    """Runs a decoder on a device.

    Args:
        decoder: The model.
        device: Where it runs.
        prefill_chunk: How many tokens of prompts go through the layers at once: bounds the memory
            of activations, and changes no bit of the results.
        capture: Whether steps are captured and replayed, which changes no bit either.
    """

    def __init__(
        self, decoder: Decoder, device: Device, *, prefill_chunk: int = 512, capture: bool = True
    ) -> None:
        self._decoder = decoder
        self._device = device
        self._prefill_chunk = prefill_chunk
        self._capture = capture
        # While the host looks at what one step has chosen, a GPU runs the next; "cpu" has no time
        # for a step that turns out not to be wanted.
        self._most_under_way = 1 if device.name == "cpu" else 2

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The logits at every position: (len(ids), vocab_size)."""
        import numpy as np

        result = np.empty((len(ids), self._decoder.config.vocab_size), np.float32)
        row = 0
        for hidden in self._hidden_states([ids]):
            for start in range(0, hidden.shape[0], LOGITS_CHUNK):
                logits = self._decoder.logits(hidden[start : start + LOGITS_CHUNK])
                result[row : row + logits.shape[0]] = logits.numpy()
                row += logits.shape[0]
        return result

    def score(
        self, texts: Sequence[Sequence[int]], given: Sequence[int]
    ) -> list[tuple[list[float], list[bool]]]:
        """The log-probabilities of the ids of texts, and whether each was the likeliest one.

        Args:
            texts: The ids; together they should fit into the memory that the cache may take.
            given: For each text how many of its ids, one at least, are given instead of scored.

        Raises:
            LogitsError: A logit was NaN or infinite.
        """
        scores: list[tuple[list[float], list[bool]]] = [([], []) for _ in texts]
        position = _positions(texts, given)
        for hidden in self._hidden_states(texts):
            wanted = [
                (row, *target)
                for row, target in enumerate(islice(position, hidden.shape[0]))
                if target is not None
            ]
            for start in range(0, len(wanted), LOGITS_CHUNK):
                chunk = wanted[start : start + LOGITS_CHUNK]
                rows = ints((row for row, _, _ in chunk), self._device)
                logits = self._decoder.logits(kernels.gather_rows(hidden, rows))
                ids = [id_ for _, _, id_ in chunk]
                likeliest: list[int] = kernels.argmax(logits).tolist()
                if min(likeliest) < 0:
                    raise LogitsError(_UNSOUND)
                values, _ = kernels.top_logprobs(logits, ints(ids, self._device), 1)
                for (_, text, id_), best, logprobs in zip(
                    chunk, likeliest, values.tolist(), strict=True
                ):
                    scores[text][0].append(logprobs[0])
                    scores[text][1].append(best == id_)
        return scores

    def _hidden_states(self, texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """The residual streams at all ids of texts, one after another, some rows at a time."""
        requests = [Request(list(ids), len(ids), len(ids)) for ids in texts]
        pages = sum(pages_for(len(ids)) for ids in texts)
        cache = self._cache(pages)
        batch = Batch(requests, SamplingParams(), self._device)
        batch.reserve(0, cache)
        yield from self._prefill_chunks(batch, cache)

    def run(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Generator[list[Token], None, None]:
        """Generates, yielding the new ids of each step.

        A request leaves when it reaches its limit or when the caller has set `done`. Closing the
        iterator at any point frees what it held.

        Args:
            requests: The sequences; each has room for at least one new id.
            params: How tokens are chosen.

        Raises:
            LogitsError: A logit was NaN or infinite.
        """
        ahead = GROWTH if params.max_new_tokens is None else params.max_new_tokens
        batch = Batch(requests, params, self._device)
        pages = sum(request.missing_pages(ahead) for request in requests)
        cache = self._cache(pages)
        batch.reserve(ahead, cache)
        yield self._read(batch, self._choose_first(batch, cache))
        step: _Step | None = None
        under_way: deque[_Fetched] = deque()
        while live := [request for request in batch.requests if not _finished(request)]:
            if len(live) < len(batch.requests):
                under_way.clear()  # what they chose is chosen again without those that have left
            if not under_way:
                short = any(request.missing_pages(0) for request in live)
                outgrown = [request for request in live if self._outgrows(request)]
                if short or outgrown or len(live) < len(batch.requests):
                    step = None  # its graph holds tensors that are about to be replaced
                    ahead = len(live[0].ids) if short else 0
                    batch = self._continue(batch, live, cache, ahead=ahead)
                if outgrown:
                    for request in outgrown:
                        request.cached = 0
                    yield self._read(batch, self._choose_first(batch, cache))
                    continue
                step = step or self._step(batch, cache)
                under_way.append(step.run())
            while step is not None and self._can_follow(batch, len(under_way)):
                under_way.append(step.run())
            yield self._read(batch, under_way.popleft())

    def _choose_first(self, batch: Batch, cache: PagedCache) -> _Fetched:
        """Runs what isn't cached through the layers; returns what is chosen behind it."""
        hidden = self._prefill(batch, cache)
        return _Fetched(*batch.choose(self._decoder.logits(hidden)))

    def _can_follow(self, batch: Batch, steps: int) -> bool:
        """Whether another step can be launched behind `steps` whose ids aren't known yet."""
        return steps < self._most_under_way and all(
            len(request.ids) + steps < request.limit
            and not request.missing_pages(steps)
            and not self._outgrows(request, steps)
            for request in batch.requests
        )

    def _cache(self, pages: int) -> PagedCache:
        return PagedCache(self._decoder.config, self._device, pages, self._decoder.dtype)

    def _continue(
        self, batch: Batch, live: list[Request], cache: PagedCache, *, ahead: int
    ) -> Batch:
        """The state of those still live, with pages for at least the next position."""
        for request in batch.requests:
            if _finished(request):
                cache.give_back(request.pages)
        batch = Batch(live, batch.params, self._device)
        batch.reserve(ahead, cache)
        return batch

    def _outgrows(self, request: Request, steps: int = 0) -> bool:
        """Whether `steps` from now all of its positions have to be rotated otherwise."""
        return len(request.ids) + steps - 1 == self._decoder.config.stretch_length

    def _stretched(self, sequences: Sequence[int], requests: Sequence[Request]) -> Tensor | None:
        """What `Decoder.forward` takes as `stretched` for tokens of these sequences."""
        length = self._decoder.config.stretch_length
        if length is None:
            return None
        long = [len(request.ids) > length for request in requests]
        tokens = len(sequences)
        rows = (token + tokens * long[row] for token, row in enumerate(sequences))
        return ints(rows, self._device) if any(long) else None

    def _step(self, batch: Batch, cache: PagedCache) -> _Step:
        stretched = self._stretched(range(len(batch.requests)), batch.requests)
        return _Step(self._decoder, batch, cache, stretched, self._device, self._capture)

    def _prefill(self, batch: Batch, cache: PagedCache) -> Tensor:
        """Runs what isn't cached through the layers; returns each last row, (S, hidden)."""
        ends = list(accumulate(len(request.ids) - request.cached for request in batch.requests))
        shape = (len(ends), self._decoder.config.hidden_size)
        last = Tensor.empty(shape, self._decoder.dtype, device=self._device)
        start = done = 0
        for hidden in self._prefill_chunks(batch, cache):
            stop = start + hidden.shape[0]
            rows = [end - 1 - start for end in ends[done:] if end <= stop]
            if rows:
                out = last[done : done + len(rows)]
                kernels.gather_rows(hidden, ints(rows, self._device), out=out)
                done += len(rows)
            start = stop
        return last

    def _prefill_chunks(self, batch: Batch, cache: PagedCache) -> Iterator[Tensor]:
        """The residual streams of all uncached ids, one after another, in chunks of tokens."""
        requests = batch.requests
        ids = array("i", chain.from_iterable(request.ids[request.cached :] for request in requests))
        ranges = [range(request.cached, len(request.ids)) for request in requests]
        positions = array("i", chain.from_iterable(ranges))
        sequences = array(
            "i", chain.from_iterable([row] * len(range_) for row, range_ in enumerate(ranges))
        )
        for start in range(0, len(ids), self._prefill_chunk):
            chunk = slice(start, start + self._prefill_chunk)
            yield self._decoder.forward(
                ints(ids[chunk], self._device),
                ints(positions[chunk], self._device),
                ints(sequences[chunk], self._device),
                batch.block_tables,
                cache,
                self._stretched(sequences[chunk], requests),
            )

    def _read(self, batch: Batch, fetched: _Fetched) -> list[Token]:
        """Waits for a step's ids and adds them to their requests."""
        new: list[int] = fetched.ids.tolist()
        if min(new) < 0:
            raise LogitsError(_UNSOUND)
        reported = _read_logprobs(*fetched.logprobs) if fetched.logprobs else [None] * len(new)
        tokens = []
        for request, id_, entry in zip(batch.requests, new, reported, strict=True):
            request.cached = len(request.ids)
            request.ids.append(id_)
            tokens.append(Token(request, id_, entry))
        return tokens


def _positions(
    texts: Sequence[Sequence[int]], given: Sequence[int]
) -> Iterator[tuple[int, int] | None]:
    """For each id of the texts the text's number and its next id; None where that isn't scored."""
    for text, (ids, first) in enumerate(zip(texts, given, strict=True)):
        for at in range(1, len(ids) + 1):
            yield (text, ids[at]) if first <= at < len(ids) else None


def _finished(request: Request) -> bool:
    return request.done or len(request.ids) >= request.limit


class _Fetched:
    """What `Batch.choose` has returned, on its way to the host."""

    def __init__(self, ids: Tensor, logprobs: tuple[Tensor, Tensor] | None) -> None:
        self.ids = ids.fetch()
        self.logprobs = None if logprobs is None else (logprobs[0].fetch(), logprobs[1].fetch())


def _read_logprobs(values: Fetch, indices: Fetch) -> list[TokenLogprobs | None]:
    return [
        TokenLogprobs(row[0], dict(zip(columns[1:], row[1:], strict=True)))
        for row, columns in zip(values.tolist(), indices.tolist(), strict=True)
    ]


class _Step:
    """One decoding step of a batch: layers, logits, choice, and on to the next position."""

    def __init__(
        self,
        decoder: Decoder,
        batch: Batch,
        cache: PagedCache,
        stretched: Tensor | None,
        device: Device,
        capture: bool,
    ) -> None:
        self._decoder = decoder
        self._batch = batch
        self._cache = cache
        self._stretched = stretched
        self._graph: Graph | None = None
        if capture:
            with device.controller.capture() as graph:
                self._result = self._launch()
            self._graph = graph

    def run(self) -> _Fetched:
        """Launches the step; returns what it chooses."""
        if self._graph is None:
            return _Fetched(*self._launch())
        self._graph.replay()
        return _Fetched(*self._result)

    def _launch(self) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        batch = self._batch
        hidden = self._decoder.forward(
            batch.token_ids,
            batch.positions,
            batch.sequences,
            batch.block_tables,
            self._cache,
            self._stretched,
        )
        return batch.choose(self._decoder.logits(hidden))
