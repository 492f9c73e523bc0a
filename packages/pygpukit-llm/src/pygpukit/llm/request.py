"""One sequence on its way through the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.sampling import SamplingParams

__all__ = ["Accept", "Both", "Constraint", "Request"]

Accept: TypeAlias = Callable[[int, TokenLogprobs | None], bool]
"""Takes a new id, already among the request's, and says whether it ends the request."""


class Constraint(Protocol):
    """What the output of a request may become, one id after another."""

    def bias(self) -> bytes:
        """float32 for each id of the vocabulary, added to its logit; -∞ where it may not come."""
        ...

    def take(self, id_: int) -> None:
        """Goes on to the next step."""
        ...


class Both:
    """Two constraints at once."""

    def __init__(self, first: Constraint, second: Constraint) -> None:
        self._both = first, second

    def bias(self) -> bytes:
        """float32 for each id, to be added to its logit."""
        import numpy as np

        first, second = (np.frombuffer(one.bias(), np.float32) for one in self._both)
        return (first + second).tobytes()

    def take(self, id_: int) -> None:
        """Goes on to the next step."""
        for one in self._both:
            one.take(id_)


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way.

    Attributes:
        ids: Prompt and output so far.
        limit: How many ids it may have in all.
        params: How its tokens are chosen.
        accept: Told of each new id by the thread that runs the step.
        constraint: What the output may become; None is anything.
        tenant: Whose it is: tenants are served alike.
        priority: Of its tenant's requests the higher goes first.
        deadline: When nobody wants the rest any more, in seconds of `time.monotonic`.
        prompt_length: How many of the ids are the prompt: all that there are at first.
        number: The scheduler's, while it has it.
        reserved: Positions that the cache is to have room for.
        done: Whether it has ended: by `accept`, by its limit, by `Engine.cancel` or by an error.
        error: What went wrong.
    """

    ids: list[int]
    limit: int
    params: SamplingParams
    accept: Accept
    constraint: Constraint | None = None
    tenant: int = 0
    priority: int = 0
    deadline: float | None = None
    prompt_length: int = -1
    number: int | None = None
    reserved: int = 0
    done: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        if self.prompt_length < 0:
            self.prompt_length = len(self.ids)
