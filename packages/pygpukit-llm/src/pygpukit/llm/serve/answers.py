"""The JSON objects that answer a request, whole or in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from pygpukit.llm.generation import Generation, TokenLogprobs
from pygpukit.llm.serve.calls import Arguments, Begin, CallParser, Event, Text, collect
from pygpukit.llm.serve.tools import Tools
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
        tools: Those whose calls are looked for.
    """

    prefix, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, tokenizer: Tokenizer, choices: int, tools: Tools) -> None:
        super().__init__(model, tokenizer, choices)
        self._tools = tools
        self._calls = [0] * choices
        self._parsers: list[CallParser] | None = None
        if tools.schemas is not None:
            self._parsers = [CallParser(tools.functions) for _ in range(choices)]

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The answer that isn't streamed."""
        choices = []
        for index, generation in enumerate(generations):
            text, reason = generation.text, str(generation.finish_reason)
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if self._parsers is not None:
                parser = self._parsers[index]
                text, calls = collect([*parser.push(text), *parser.finish()])
                message["content"] = text
                if calls:
                    message["content"] = text or None
                    message["tool_calls"] = [
                        {**self._new_call(call.name), "function": call._asdict()} for call in calls
                    ]
                    reason = _reason(generation)
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(generation.ids, generation.logprobs),
                    "finish_reason": reason,
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
        events: list[Event] = [Text(text)] if text else []
        if self._parsers is not None:
            events = self._parsers[choice].push(text)
        if not events and logprobs is not None:
            events = [Text("")]
        pieces = [self._event(choice, event) for event in events]
        if pieces:
            pieces[0]["choices"][0]["logprobs"] = self._logprobs(ids, logprobs)
        return pieces

    def last(self, choice: int, generation: Generation) -> list[dict[str, Any]]:
        """What ends a choice."""
        events = self._parsers[choice].finish() if self._parsers is not None else []
        pieces = [self._event(choice, event) for event in events]
        reason = _reason(generation) if self._calls[choice] else str(generation.finish_reason)
        return [*pieces, self._delta(choice, {}, reason=reason)]

    def _event(self, choice: int, event: Event) -> dict[str, Any]:
        """The piece that tells text, the beginning of a call, or more of its arguments."""
        match event:
            case Text():
                return self._delta(choice, {"content": event.text})
            case Begin():
                self._calls[choice] += 1
                call = self._new_call(event.name)
            case Arguments():
                call = {"function": {"arguments": event.text}}
        call = {"index": self._calls[choice] - 1, **call}
        return self._delta(choice, {"tool_calls": [call]})

    def _new_call(self, name: str) -> dict[str, Any]:
        id_ = secrets.token_hex(self._tools.id_length)[: self._tools.id_length]
        id_ = id_ if self._tools.id_length < 24 else f"call_{id_}"
        function = {"name": name, "arguments": ""}
        return {"id": id_, "type": "function", "function": function}

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


def _reason(generation: Generation) -> str:
    """Why an output with calls has ended."""
    return "length" if generation.finish_reason == "length" else "tool_calls"
