"""The conversation of a request, as chat templates read it."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.errors import ApiError

__all__ = ["read_messages"]

Json: TypeAlias = dict[str, Any]


def read_messages(body: Body) -> list[Json]:
    """The messages: contents as one text, and the arguments of calls as objects.

    Raises:
        ApiError: There are none, one that isn't the model's has no content, or a part isn't text.
    """
    messages = body.objects("messages")
    if messages is None:
        raise ApiError(400, "messages: expected a list of objects", param="messages")
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: Json) -> Json:
    content, calls = message.get("content"), message.get("tool_calls")
    if content is None and message.get("role") != "assistant":
        what = f"messages[{index}].content: expected a text or a list of parts, found none"
        raise ApiError(400, what, param="messages")
    if isinstance(content, list):
        where = f"messages[{index}].content"
        texts = [_part(f"{where}[{at}]", part) for at, part in enumerate(content)]
        message = {**message, "content": "".join(texts)}
    if isinstance(calls, list):
        message = {**message, "tool_calls": [_call(call) for call in calls]}
    return message


def _part(where: str, part: object) -> str:
    """The text of a part of a content."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    message = f"{where}: expected a part of the type text, found {part!r:.80}"
    raise ApiError(400, message, param="messages")


def _call(call: Any) -> Any:
    """A call with its arguments as an object: clients send JSON, templates write it."""
    match call:
        case {"function": {"arguments": str(text), **function}, **rest}:
            try:
                arguments = json.loads(text)
            except (ValueError, RecursionError):
                return call
            if isinstance(arguments, dict):
                return {**rest, "function": {**function, "arguments": arguments}}
    return call
