"""Logits and log-probabilities of given texts: once through the layers, nothing chosen."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PagedCache, pages_for
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.device import step_tokens
from pygpukit.llm.errors import LogitsError
from pygpukit.llm.slots import block_table
from pygpukit.llm.tensors import ints

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Scorer"]

LOGITS_CHUNK = 64
"""Rows of logits computed at once where all are wanted."""


class Scorer:
    """Runs texts through a decoder.

    Args:
        decoder: The model.
        device: Where it runs.
        chunk: How many tokens go through the layers at once, by default what `device.step_tokens`
            says: bounds the memory of activations, and changes no bit of the results.
    """

    def __init__(self, decoder: Decoder, device: Device, *, chunk: int | None = None) -> None:
        self._decoder = decoder
        self._device = device
        self._chunk = chunk or step_tokens(device)

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
                    raise LogitsError()
                values, _ = kernels.top_logprobs(logits, ints(ids, self._device), 1)
                for (_, text, id_), best, logprobs in zip(
                    chunk, likeliest, values.tolist(), strict=True
                ):
                    scores[text][0].append(logprobs[0])
                    scores[text][1].append(best == id_)
        return scores

    def _hidden_states(self, texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """The residual streams at all ids of texts, one after another, some rows at a time."""
        counts = [pages_for(len(ids)) for ids in texts]
        ends = list(accumulate(counts))
        tables = [range(end - count, end) for count, end in zip(counts, ends, strict=True)]
        block_tables = block_table(tables, self._device)
        dtype = self._decoder.attention_dtype
        cache = PagedCache(self._decoder.config, self._device, ends[-1], dtype)
        ids = array("i", chain.from_iterable(texts))
        positions = array("i", chain.from_iterable(range(len(text)) for text in texts))
        sequences = array(
            "i", chain.from_iterable([row] * len(text) for row, text in enumerate(texts))
        )
        for start in range(0, len(ids), self._chunk):
            chunk = slice(start, start + self._chunk)
            lengths = [len(texts[row]) for row in sequences[chunk]]
            yield self._decoder.forward(
                ints(ids[chunk], self._device),
                ints(positions[chunk], self._device),
                ints(sequences[chunk], self._device),
                block_tables,
                cache,
                self._decoder.stretched_rows(lengths),
            )


def _positions(
    texts: Sequence[Sequence[int]], given: Sequence[int]
) -> Iterator[tuple[int, int] | None]:
    """For each id of the texts the text's number and its next id; None where that isn't scored."""
    for text, (ids, first) in enumerate(zip(texts, given, strict=True)):
        for at in range(1, len(ids) + 1):
            yield (text, ids[at]) if first <= at < len(ids) else None
