"""From the logits of a step's rows to their next tokens, each row with its own parameters."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Device, Fetch, Tensor
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.request import Request
from pygpukit.llm.tensors import floats, ints, longs

__all__ = ["Chosen", "Kind", "Sampler"]


class Kind(NamedTuple):
    """Which kernels choose the tokens of some rows.

    Attributes:
        greedy: Whether every row takes its likeliest token.
        penalized: Whether some row's logits are penalised.
        constrained: Whether some row may not take every token.
        logprobs: How many log-probabilities are reported beside the chosen one's; None is nothing.
    """

    greedy: bool
    penalized: bool
    constrained: bool
    logprobs: int | None

    @property
    def plain(self) -> bool:
        """Whether every row takes its likeliest token, and nothing else is asked for."""
        return self == Kind(greedy=True, penalized=False, constrained=False, logprobs=None)

    @classmethod
    def of(cls, requests: Sequence[Request], vocab_size: int) -> Kind:
        """The least that does for all of `requests`; what a row lacks doesn't change it."""
        params = [request.params for request in requests]
        counts = [entry.logprobs for entry in params if entry.logprobs is not None]
        return cls(
            greedy=all(entry.greedy for entry in params),
            penalized=any(entry.penalized for entry in params),
            constrained=any(request.constraint is not None for request in requests),
            logprobs=min(max(counts), vocab_size) if counts else None,
        )


class Chosen:
    """What a step has chosen, on its way to the host."""

    def __init__(self, ids: Tensor, logprobs: tuple[Tensor, Tensor] | None) -> None:
        self._ids = ids.fetch()
        self._logprobs: tuple[Fetch, Fetch] | None = None
        if logprobs is not None:
            self._logprobs = logprobs[0].fetch(), logprobs[1].fetch()

    def read(self, requests: Sequence[Request]) -> list[tuple[int, TokenLogprobs | None]]:
        """Waits for the first rows, those of `requests`: each id, -1 where a logit was unsound."""
        ids: list[int] = self._ids.tolist()[: len(requests)]
        if self._logprobs is None:
            return [(id_, None) for id_ in ids]
        values, indices = (fetch.tolist() for fetch in self._logprobs)
        return [
            (id_, _logprobs(request.params.logprobs, row, columns))
            for id_, request, row, columns in zip(ids, requests, values, indices, strict=False)
        ]


def _logprobs(count: int | None, values: list[float], indices: list[int]) -> TokenLogprobs | None:
    if count is None:
        return None
    top = zip(indices[1 : count + 1], values[1 : count + 1], strict=True)
    return TokenLogprobs(values[0], dict(top))


class Sampler:
    """The parameters of up to `capacity` rows, on the device.

    Args:
        capacity: How many rows there can be.
        device: Where they are.
        bias_width: Of the vocabulary where rows may be constrained.
    """

    def __init__(self, capacity: int, device: Device, bias_width: int = 0) -> None:
        self._bias = Tensor.zeros((capacity, bias_width), "float32", device=device)
        self._biases: list[bytes | None] = [None] * capacity  # what is in its rows
        self._rows = ints(range(capacity), device)
        self._prompt_lengths = ints([0] * capacity, device)
        self._penalties = floats([1.0, 0.0, 0.0] * capacity, device).reshape(capacity, 3)
        self._temperature = floats([0.0] * capacity, device)
        self._top_k = ints([0] * capacity, device)
        self._top_p = floats([1.0] * capacity, device)
        self._min_p = floats([0.0] * capacity, device)
        self._seeds = longs([0] * capacity, device)

    def set(self, requests: Sequence[Request], kind: Kind) -> None:
        """Takes the parameters of `requests`, which are of that kind, for the first rows."""
        rows = len(requests)
        params = [request.params for request in requests]
        if kind.constrained:
            free = array("f", bytes(4 * self._bias.shape[1]))
            for row, request in enumerate(requests):
                if request.constraint is None:
                    self._bias[row].copy_(free)
                    self._biases[row] = None
        if kind.penalized:
            lengths = array("i", [request.prompt_length for request in requests])
            self._prompt_lengths[:rows].copy_(lengths)
            penalties = [
                value
                for entry in params
                for value in (
                    entry.repetition_penalty,
                    entry.presence_penalty,
                    entry.frequency_penalty,
                )
            ]
            self._penalties[:rows].reshape(-1).copy_(array("f", penalties))
        if not kind.greedy:
            self._temperature[:rows].copy_(array("f", [entry.temperature for entry in params]))
            self._top_k[:rows].copy_(array("i", [entry.top_k for entry in params]))
            self._top_p[:rows].copy_(array("f", [entry.top_p for entry in params]))
            self._min_p[:rows].copy_(array("f", [entry.min_p for entry in params]))
            self._seeds[:rows].copy_(array("q", [entry.seed for entry in params]))

    def constrain(self, requests: Sequence[Request]) -> None:
        """Takes what the next tokens of `requests`, those of the first rows, may be."""
        for row, request in enumerate(requests):
            if request.constraint is not None:
                bias = request.constraint.bias()
                if bias is not self._biases[row]:
                    self._bias[row].copy_(array("f", bias))
                    self._biases[row] = bias

    def choose(
        self, logits: Tensor, kind: Kind, positions: Tensor, history: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Chooses the next id of the first rows, those of `logits`.

        Args:
            logits: (S, vocab_size) float32; changed where rows are penalised or constrained.
            kind: Which kernels that takes.
            positions: (S,) int32: of the ids that gave the logits.
            history: (S, C) int32: the ids up to there; needed for penalties only.

        Returns:
            The ids, (S,) int32, -1 where a logit was NaN or infinite; and the log-probabilities of
            `kernels.top_logprobs` where they are asked for.
        """
        rows = slice(0, logits.shape[0])
        unpenalized = logits
        if kind.logprobs is not None and (kind.penalized or kind.constrained):
            unpenalized = kernels.gather_rows(logits, self._rows[rows])
        if kind.penalized:
            kernels.penalize(
                logits, history, positions, self._prompt_lengths[rows], self._penalties[rows]
            )
        if kind.constrained:
            kernels.add(logits, self._bias[rows], out=logits)
        if kind.greedy:
            ids = kernels.argmax(logits)
        else:
            ids = kernels.sample(
                logits,
                positions,
                self._temperature[rows],
                self._top_k[rows],
                self._top_p[rows],
                self._min_p[rows],
                self._seeds[rows],
            )
        if kind.logprobs is None:
            return ids, None
        return ids, kernels.top_logprobs(unpenalized, ids, kind.logprobs)
