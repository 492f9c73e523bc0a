"""What one prompt produces while it is being continued."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import NamedTuple

from pygpukit.llm.generation import FinishReason, Generation, TextStream, TokenLogprobs, Usage
from pygpukit.llm.request import Both, Constraint, Request
from pygpukit.llm.sampling import SamplingParams

__all__ = ["News", "Output", "Stream"]


class News(NamedTuple):
    """What an output has got since it was last asked.

    Attributes:
        text: Text that is certain now; perhaps not yet all that the ids stand for.
        ids: Ids.
        logprobs: One entry for each id where they were asked for.
    """

    text: str
    ids: list[int]
    logprobs: list[TokenLogprobs] | None


class Output:
    """What one prompt has produced so far.

    Args:
        ids: The prompt.
        limit: How many ids prompt and output may have together.
        params: How tokens are chosen.
        text: Turns the ids into text.
        end_ids: Those that end it.

    Attributes:
        request: What the engine runs.
    """

    def __init__(
        self,
        ids: list[int],
        limit: int,
        params: SamplingParams,
        text: TextStream,
        end_ids: frozenset[int],
    ) -> None:
        self.request = Request(ids, limit, params, self._add)
        self._text = text
        self._end_ids = end_ids
        self._logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self._finish_reason: FinishReason = "length"
        self._pieces: deque[tuple[int, TokenLogprobs | None, str]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether anything can be generated at all."""
        return len(self.request.ids) < self.request.limit

    def constrain(self, constraint: Constraint) -> None:
        """Holds the output to a constraint, beside those that it is held to."""
        present = self.request.constraint
        self.request.constraint = Both(present, constraint) if present else constraint

    def take(self) -> News:
        """What is new since it was last taken, by whichever thread."""
        pieces, ids, logprobs = [], [], []
        while self._pieces:
            id_, entry, piece = self._pieces.popleft()
            pieces.append(piece)
            ids.append(id_)
            if entry is not None:
                logprobs.append(entry)
        return News("".join(pieces), ids, logprobs if self._logprobs is not None else None)

    def result(self) -> Generation:
        """What there is, as what the caller gets."""
        request = self.request
        ids = tuple(request.ids[request.prompt_length :])
        return Generation(
            ids=ids,
            text=self._text.text,
            finish_reason=self._finish_reason,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            usage=Usage(request.prompt_length, len(ids)),
        )

    def _add(self, id_: int, logprobs: TokenLogprobs | None) -> bool:
        """Takes a new id; says whether it, or the text, ends the output."""
        if self._logprobs is not None and logprobs is not None:
            self._logprobs.append(logprobs)
        if id_ in self._end_ids:
            stopped, piece = True, self._text.finish()
        else:
            piece = self._text.push(id_)
            if not self._text.stopped and not self.has_room:
                piece += self._text.finish()
            stopped = self._text.stopped
        if stopped:
            self._finish_reason = "stop"
        self._pieces.append((id_, logprobs, piece))
        return stopped


class Stream(Iterator[str]):
    """Pieces of text as they are generated; together they are the whole text.

    `generation` is what there is so far, and everything once the pieces have ended. Leaving the
    stream early, `close` or Ctrl-C free what it held; the model stays usable.
    """

    def __init__(self, output: Output, pieces: Generator[str, None, None]) -> None:
        self._output = output
        self._pieces = pieces

    def __next__(self) -> str:
        for piece in self._pieces:
            if piece:
                return piece
        raise StopIteration

    @property
    def generation(self) -> Generation:
        """The ids, text and usage so far."""
        return self._output.result()

    def close(self) -> None:
        """Ends generation."""
        self._pieces.close()
