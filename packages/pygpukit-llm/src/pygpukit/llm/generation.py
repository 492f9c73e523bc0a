"""What generation gives back, and the text that grows while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, overload

__all__ = [
    "FinishReason",
    "Generation",
    "Score",
    "ShowingDecoder",
    "TextDecoder",
    "TextStream",
    "TokenLogprobs",
    "Usage",
]

FinishReason = Literal["stop", "length"]


class Usage(NamedTuple):
    """How many tokens went in and came out."""

    prompt_tokens: int
    completion_tokens: int


class TokenLogprobs(NamedTuple):
    """Natural-log probabilities at one step.

    Attributes:
        logprob: Of the token that was chosen.
        top: Of the likeliest tokens, by id, likeliest first.
    """

    logprob: float
    top: dict[int, float]


@dataclass(frozen=True, slots=True)
class Generation(Sequence[int]):
    """The new ids of one prompt, as a sequence, with what belongs to them.

    Attributes:
        ids: Every generated id, the one that ended the text included.
        text: The ids as text, without the end-of-text id and from a stop string on cut; empty
            where the model has no tokenizer.
        finish_reason: "stop" after an end-of-text id or a stop string, "length" at
            `max_new_tokens` or the end of the context.
        logprobs: One entry for each id where they were asked for.
        usage: Tokens of the prompt and of the output.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None
    usage: Usage

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.ids[index]


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a text.

    Attributes:
        ids: The tokens.
        logprobs: For each token but those given its natural-log probability after those before it.
        greedy: Whether it was the likeliest.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]

    @property
    def total(self) -> float:
        """The log-probability of the whole text, given its beginning."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """`exp(-mean(logprobs))`: among how many equally likely tokens each seems chosen."""
        return math.exp(-self.total / len(self.logprobs))


class TextDecoder(Protocol):
    """The incremental decoder of a tokenizer."""

    def step(self, token_id: int) -> str:
        """The text that this id completes."""
        ...

    def flush(self) -> str:
        """What was still held back."""
        ...


class ShowingDecoder:
    """A decoder that shows some of the special tokens, which it otherwise leaves out.

    Args:
        decoder: For all other tokens.
        shown: The special tokens, and what they are shown as.
    """

    def __init__(self, decoder: TextDecoder, shown: Mapping[int, str]) -> None:
        self._decoder = decoder
        self._shown = shown

    def step(self, token_id: int) -> str:
        """The text that this id completes."""
        shown = self._shown.get(token_id)
        return self._decoder.step(token_id) if shown is None else self._decoder.flush() + shown

    def flush(self) -> str:
        """What was still held back."""
        return self._decoder.flush()


class TextStream:
    """Ids to text as they come, watching for stop strings across the ids' boundaries.

    Text that may be the beginning of a stop string is held back until it is known not to be.

    Args:
        decoder: Turns ids into text; None where there is no tokenizer.
        stop: The stop strings.
    """

    def __init__(self, decoder: TextDecoder | None, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = stop
        self._held = ""
        self._released: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """Everything released so far."""
        return "".join(self._released)

    def push(self, token_id: int) -> str:
        """Adds an id; returns the text that is now certain."""
        return self._add(self._decoder.step(token_id)) if self._decoder else ""

    def finish(self) -> str:
        """Ends the text; returns what was still held back."""
        if self._decoder is None or self.stopped:
            return ""
        piece = self._add(self._decoder.flush())
        if self.stopped:
            return piece
        return piece + self._release(self._held)

    def _add(self, piece: str) -> str:
        text = self._held + piece
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            self._held = ""
            return self._release(text[:cut])
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return self._release(text[: len(text) - keep])

    def _release(self, text: str) -> str:
        self._released.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins, but isn't all of, `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
