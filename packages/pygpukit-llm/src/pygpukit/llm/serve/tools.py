"""Finding the calls of tools in what a model has written.

Two ways are known: objects between `<tool_call>` and `</tool_call>` (Hermes, Qwen, SmolLM), and an
output that is nothing but such an object, or a list of them (Llama 3). An object has the name of a
function and its `arguments`, which Llama calls `parameters`.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = ["Call", "CallParser"]

BEGIN, END = "<tool_call>", "</tool_call>"


class Call(NamedTuple):
    """A call of a function; `arguments` is a JSON object as text."""

    name: str
    arguments: str


class CallParser:
    """Splits text, as it comes, into what the user sees and calls.

    Text is held back as long as it may be a call; what turns out to be none is shown.
    """

    def __init__(self) -> None:
        self._held = ""
        self._shown = False

    def push(self, piece: str) -> str:
        """Takes more text; returns what is certainly no call."""
        self._held += piece
        if not self._shown and self._held.lstrip()[:1] in ("", "{", "["):
            return ""  # it may be nothing but calls
        at = self._held.find(BEGIN)
        if at < 0:
            at = len(self._held) - _overlap(self._held, BEGIN)
        return self._show(at)

    def finish(self) -> tuple[str, list[Call]]:
        """Ends the text; returns what else is shown, and the calls."""
        held, self._held = self._held, ""
        if held.lstrip()[:1] in ("{", "["):
            calls = _calls(held)
            return ("", calls) if calls else (held, [])
        shown, calls = "", list[Call]()
        while held:
            before, begin, rest = held.partition(BEGIN)
            inside, end, held = rest.partition(END)
            found = _calls(inside) if begin else []
            shown += before if found or not begin else before + begin + inside + end
            calls += found
        return (shown.rstrip() if calls else shown), calls

    def _show(self, end: int) -> str:
        shown, self._held = self._held[:end], self._held[end:]
        self._shown = self._shown or bool(shown)
        return shown


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` with which `marker` begins."""
    return next((n for n in range(len(marker) - 1, 0, -1) if text.endswith(marker[:n])), 0)


def _calls(text: str) -> list[Call]:
    """The calls that a JSON text is, or none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    items = value if isinstance(value, list) else [value]
    calls = [_call(item) for item in items]
    return [call for call in calls if call is not None] if all(calls) else []


def _call(item: Any) -> Call | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters"))
    if isinstance(arguments, str):
        return Call(item["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return Call(item["name"], json.dumps(arguments, ensure_ascii=False))
