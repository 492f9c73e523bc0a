"""What one prompt produces while it is being continued."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator

from pygpukit.llm.generation import FinishReason, Generation, TextStream, TokenLogprobs, Usage
from pygpukit.llm.request import Request
from pygpukit.llm.sampling import SamplingParams

__all__ = ["Output", "Stream"]


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
        self._pieces: deque[str] = deque()

    @property
    def has_room(self) -> bool:
        """Whether anything can be generated at all."""
        return len(self.request.ids) < self.request.limit

    def take(self) -> str:
        """The text that is new since it was last taken."""
        pieces = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        return "".join(pieces)

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
            self._pieces.append(self._text.finish())
            self._finish_reason = "stop"
            return True
        self._pieces.append(self._text.push(id_))
        if self._text.stopped:
            self._finish_reason = "stop"
        elif not self.has_room:
            self._pieces.append(self._text.finish())
            if self._text.stopped:
                self._finish_reason = "stop"
        return self._text.stopped


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
