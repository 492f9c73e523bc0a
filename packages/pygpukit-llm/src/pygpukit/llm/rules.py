"""Tokens that may not come next, or are made likelier, whatever the logits say.

The rules and their order are those of transformers' logits processors of the same names.
"""

from __future__ import annotations

from collections.abc import Iterable

from pygpukit.llm.errors import SamplingError
from pygpukit.llm.request import Request
from pygpukit.llm.sampling import SamplingParams

__all__ = ["TokenRules", "check_ids"]


def check_ids(params: SamplingParams, vocab_size: int) -> None:
    """Refuses ids that the model doesn't have.

    Raises:
        SamplingError: Naming the argument.
    """
    named: dict[str, Iterable[int]] = {
        "logit_bias": [id_ for id_, _ in params.logit_bias],
        "suppress_tokens": params.suppress_tokens,
        "begin_suppress_tokens": params.begin_suppress_tokens,
        "bad_words_ids": [id_ for word in params.bad_words_ids for id_ in word],
        "forced_eos_token_id": params.forced_eos_token_id,
    }
    for name, ids in named.items():
        for id_ in ids:
            if id_ >= vocab_size:
                raise SamplingError(f"{name}: the model has ids below {vocab_size}, got {id_}")


class TokenRules:
    """What the parameters of a request say of its next token, from the ids so far.

    Args:
        request: Its ids are all known when it is asked.
        end_ids: Those that end its output.
        vocab_size: Of the model.
    """

    def __init__(self, request: Request, end_ids: Iterable[int], vocab_size: int) -> None:
        import numpy as np

        params = request.params
        check_ids(params, vocab_size)
        self._request = request
        self._end_ids = [id_ for id_ in end_ids if id_ < vocab_size]
        self._words = [word for word in params.bad_words_ids if len(word) > 1]
        self._ngrams = _Ngrams(params.no_repeat_ngram_size) if params.no_repeat_ngram_size else None
        self._always = np.zeros(vocab_size, np.float32)
        for id_, value in params.logit_bias:
            self._always[id_] = value
        ends = set(self._end_ids)
        single = [word[0] for word in params.bad_words_ids if len(word) == 1]
        # What ends the output can't be a bad word by itself.
        self._always[
            [*params.suppress_tokens, *(id_ for id_ in single if id_ not in ends)]
        ] = -np.inf
        self._always_bytes = self._always.tobytes()

    def bias(self) -> bytes:
        """float32 for each id, to be added to its logit; mostly the same object again."""
        import numpy as np

        request, params = self._request, self._request.params
        if params.forced_eos_token_id and len(request.ids) == request.limit - 1:
            only = np.full(len(self._always), -np.inf, np.float32)
            only[list(params.forced_eos_token_id)] = 0
            return only.tobytes()
        excluded = self._excluded()
        if not excluded:
            return self._always_bytes
        bias = self._always.copy()
        bias[excluded] = -np.inf
        return bias.tobytes()

    def _excluded(self) -> list[int]:
        """The ids that may not come now, but may at other times."""
        request, params, excluded = self._request, self._request.params, list[int]()
        length = len(request.ids)
        if length == request.prompt_length:
            excluded += params.begin_suppress_tokens
        if length < max(params.min_length, request.prompt_length + params.min_new_tokens):
            excluded += self._end_ids
        excluded += (last for *before, last in self._words if request.ids[-len(before) :] == before)
        if self._ngrams is not None:
            excluded += self._ngrams.complete(request.ids)
        return excluded

    def take(self, id_: int) -> None:
        """Nothing: the ids are the request's."""


class _Ngrams:
    """The runs of `size` ids that a sequence has had."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._next: dict[tuple[int, ...], list[int]] = {}
        self._known = 0  # ends of runs that have been looked at

    def complete(self, ids: list[int]) -> list[int]:
        """The ids that would make the end of the sequence a run that it has had."""
        size = self._size
        for end in range(max(self._known, size - 1), len(ids)):
            self._next.setdefault(tuple(ids[end - size + 1 : end]), []).append(ids[end])
        self._known = len(ids)
        return self._next.get(tuple(ids[len(ids) - size + 1 :]), []) if len(ids) >= size - 1 else []
