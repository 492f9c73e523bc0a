"""What one prompt produces while it is being continued."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from pygpukit.llm.batch import Request
from pygpukit.llm.generation import FinishReason, Generation, TextStream, TokenLogprobs, Usage

__all__ = ["Output", "Stream"]


class Output:
    """What one prompt has produced so far."""

    def __init__(
        self, request: Request, text: TextStream, end_ids: frozenset[int], *, with_logprobs: bool
    ) -> None:
        self.request = request
        self._text = text
        self._end_ids = end_ids
        self._logprobs: list[TokenLogprobs] | None = [] if with_logprobs else None
        self._finish_reason: FinishReason = "length"

    @property
    def has_room(self) -> bool:
        """Whether anything can be generated at all."""
        return len(self.request.ids) < self.request.limit

    def add(self, id_: int, logprobs: TokenLogprobs | None) -> str:
        """Takes a new id; ends the request where it or the text says so. Returns new text."""
        if self._logprobs is not None and logprobs is not None:
            self._logprobs.append(logprobs)
        if id_ in self._end_ids:
            return self._stop(self._text.finish())
        piece = self._text.push(id_)
        if not self._text.stopped and not self.has_room:
            piece += self._text.finish()
        return self._stop(piece) if self._text.stopped else piece

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

    def _stop(self, piece: str) -> str:
        self.request.done = True
        self._finish_reason = "stop"
        return piece


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
