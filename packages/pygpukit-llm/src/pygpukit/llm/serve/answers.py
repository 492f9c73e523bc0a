"""The JSON objects that answer a request, whole or in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from pygpukit.llm.generation import Generation, TokenLogprobs
from pygpukit.llm.serve.tools import Call, CallParser
from pygpukit.tokenizer import Tokenizer

__all__ = ["Answers", "ChatAnswers", "TextAnswers", "event"]


def event(value: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


class Answers(Protocol):
    """Builds the answers to one request, one choice for each output."""

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The answer that isn't streamed."""
        ...

    def first(self, choice: int) -> list[dict[str, Any]]:
        """What begins a streamed choice."""
        ...

    def piece(
        self, choice: int, text: str, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        """What new text and ids of a choice become."""
        ...

    def last(self, choice: int, generation: Generation) -> list[dict[str, Any]]:
        """What ends a choice."""
        ...

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The piece that tells the usage."""
        ...


class _Common:
    """What both kinds of answers share."""

    prefix: str
    whole_object: str
    piece_object: str

    def __init__(self, model: str, tokenizer: Tokenizer, choices: int) -> None:
        self._choices = choices
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._tokenizer = tokenizer

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The piece that tells the usage."""
        return {**self._envelope(self.piece_object, []), "usage": self._usage(generations)}

    def _usage(self, generations: Sequence[Generation]) -> dict[str, int]:
        """A prompt that has several answers counts once."""
        prompts = sum(entry.usage.prompt_tokens for entry in generations[:: self._choices])
        output = sum(entry.usage.completion_tokens for entry in generations)
        return {
            "prompt_tokens": prompts,
            "completion_tokens": output,
            "total_tokens": prompts + output,
        }

    def _token(self, id_: int) -> str:
        return self._tokenizer.decode([id_], skip_special_tokens=False)


class ChatAnswers(_Common):
    """Of /v1/chat/completions.

    Args:
        model: What the model is called.
        tokenizer: For the texts of single tokens.
        choices: How many answers there are.
        tools: Whether calls are looked for.
    """

    prefix, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, tokenizer: Tokenizer, choices: int, *, tools: bool) -> None:
        super().__init__(model, tokenizer, choices)
        self._parsers = [CallParser() for _ in range(choices)] if tools else None

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The answer that isn't streamed."""
        choices = []
        for index, generation in enumerate(generations):
            text, calls = generation.text, list[Call]()
            if self._parsers is not None:
                shown = self._parsers[index].push(text)
                rest, calls = self._parsers[index].finish()
                text = (shown + rest).rstrip() if calls else shown + rest
            message: dict[str, Any] = {"role": "assistant", "content": text or None}
            if calls:
                message["tool_calls"] = [_call(call) for call in calls]
            else:
                message["content"] = text
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(generation.ids, generation.logprobs),
                    "finish_reason": "tool_calls" if calls else generation.finish_reason,
                }
            )
        return {**self._envelope(self.whole_object, choices), "usage": self._usage(generations)}

    def first(self, choice: int) -> list[dict[str, Any]]:
        """What begins a streamed choice."""
        return [self._delta(choice, {"role": "assistant", "content": ""})]

    def piece(
        self, choice: int, text: str, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        """What new text and ids of a choice become."""
        if self._parsers is not None:
            text = self._parsers[choice].push(text)
        if not text and logprobs is None:
            return []
        return [self._delta(choice, {"content": text}, logprobs=self._logprobs(ids, logprobs))]

    def last(self, choice: int, generation: Generation) -> list[dict[str, Any]]:
        """What ends a choice."""
        pieces, reason = [], str(generation.finish_reason)
        if self._parsers is not None:
            rest, calls = self._parsers[choice].finish()
            if rest:
                pieces.append(self._delta(choice, {"content": rest}))
            if calls:
                reason = "tool_calls"
                deltas = [{"index": index, **_call(call)} for index, call in enumerate(calls)]
                pieces.append(self._delta(choice, {"tool_calls": deltas}))
        return [*pieces, self._delta(choice, {}, reason=reason)]

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._envelope(self.piece_object, [entry])

    def _logprobs(
        self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        content = []
        for id_, entry in zip(ids, logprobs, strict=True):
            top = [self._entry(other, logprob) for other, logprob in entry.top.items()]
            content.append({**self._entry(id_, entry.logprob), "top_logprobs": top})
        return {"content": content}

    def _entry(self, id_: int, logprob: float) -> dict[str, Any]:
        token = self._token(id_)
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


class TextAnswers(_Common):
    """Of /v1/completions.

    Args:
        model: What the model is called.
        tokenizer: For the texts of single tokens.
        choices: How many answers each prompt has.
        echoes: For each answer the text that it is to begin with.
    """

    prefix, whole_object, piece_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: str, tokenizer: Tokenizer, choices: int, echoes: Sequence[str]
    ) -> None:
        super().__init__(model, tokenizer, choices)
        self._echoes = echoes
        self._lengths = [len(echo) for echo in echoes]

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The answer that isn't streamed."""
        choices = [
            self._choice(
                index,
                self._echoes[index] + generation.text,
                self._logprobs(index, generation.ids, generation.logprobs),
                generation.finish_reason,
            )
            for index, generation in enumerate(generations)
        ]
        return {**self._envelope(self.whole_object, choices), "usage": self._usage(generations)}

    def first(self, choice: int) -> list[dict[str, Any]]:
        """What begins a streamed choice."""
        echo = self._echoes[choice]
        if not echo:
            return []
        return [self._envelope(self.piece_object, [self._choice(choice, echo, None, None)])]

    def piece(
        self, choice: int, text: str, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> list[dict[str, Any]]:
        """What new text and ids of a choice become."""
        if not text and logprobs is None:
            return []
        entry = self._choice(choice, text, self._logprobs(choice, ids, logprobs), None)
        return [self._envelope(self.piece_object, [entry])]

    def last(self, choice: int, generation: Generation) -> list[dict[str, Any]]:
        """What ends a choice."""
        entry = self._choice(choice, "", None, generation.finish_reason)
        return [self._envelope(self.piece_object, [entry])]

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(
        self, choice: int, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        tokens = [self._token(id_) for id_ in ids]
        offsets = []
        for token in tokens:
            offsets.append(self._lengths[choice])
            self._lengths[choice] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [
                {self._token(id_): logprob for id_, logprob in entry.top.items()}
                for entry in logprobs
            ],
            "text_offset": offsets,
        }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
