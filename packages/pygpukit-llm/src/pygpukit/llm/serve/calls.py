"""Finding the calls of tools in what a model writes, as it comes.

Three ways of writing are known:

- behind a marker, as an object or a list of them: `<tool_call>…</tool_call>` (Hermes, Qwen,
  SmolLM), `<|tool_call|>…` (Granite, Phi-4-mini), `[TOOL_CALLS][…]` (Mistral), and
  `<|python_tag|>…` (Llama);
- `[TOOL_CALLS]name[ARGS]{…}` (newer Mistral), and `<|python_tag|>name.call(key="value")` (Llama);
- an output that is nothing but such an object or list (Llama);
- between the markers of Hermes in tags (`tagged.py`: Qwen3-Coder, GLM-4.5).

An object has the name of a function and its `arguments`, which Llama calls `parameters`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from pygpukit.llm.serve.tagged import Schema, tagged_call

__all__ = ["MARKERS", "Arguments", "Begin", "Call", "CallParser", "Event", "Text", "collect"]

ENDS = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "[TOOL_CALLS]": "",
    "<|python_tag|>": "",
}
"""What begins calls, and what ends them unless the output does."""

MARKERS = (*ENDS, *filter(None, ENDS.values()), "[ARGS]", "[CALL_ID]")
"""What a text has to show, also where the tokenizer has special tokens for it."""

_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(
    rf'[\s,;\[]*\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*({_STRING})\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_NAMED = re.compile(r"[\s,]*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")

_BETWEEN = " \t\r\n,;[]"


class Text(NamedTuple):
    """What the user sees."""

    text: str


class Begin(NamedTuple):
    """The beginning of a call of a function."""

    name: str


class Arguments(NamedTuple):
    """More of the last call's arguments: together they are a JSON object."""

    text: str


Event: TypeAlias = Text | Begin | Arguments


class Call(NamedTuple):
    """A call of a function; `arguments` is a JSON object as text."""

    name: str
    arguments: str


class CallParser:
    """Splits text, as it comes, into what the user sees and calls.

    A call is told as soon as its name is known, and its arguments as they come, in the model's own
    words. Text is held back as long as it may become a call; what turns out to be none is shown.
    What the events add up to doesn't depend on how the text was cut.

    Args:
        functions: Their parameters' schemas by their names. An output without a marker is a call of
            one of these or none.
    """

    def __init__(self, functions: Mapping[str, Schema]) -> None:
        self._functions = functions
        self._held = ""
        self._marker: str | None = None  # of the calls that are being read; "" where it has none
        self._opening = ""  # the marker, and the white space before it
        self._begun = False  # whether there has been anything but white space
        self._found = False  # whether there has been a call since the marker
        self._called = False  # whether there has been a call at all
        self._arguments: _Scanner | None = None  # of the call that is being read
        self._rest: _Scanner | None = None  # of its object, behind the arguments

    def push(self, piece: str) -> list[Event]:
        """Takes more text; returns what is certain."""
        self._held += piece
        return list(self._events())

    def finish(self) -> list[Event]:
        """Ends the text; returns what else there is."""
        events = list(self._events())
        held, self._held = self._held, ""
        if self._marker is not None:
            return events + self._unusual(held, "")
        if held.strip() or (held and not self._called):
            events.append(Text(held))
        return events

    def _events(self) -> Iterator[Event]:
        """Reads what is held as far as it can be understood."""
        before: object = None
        while before != (before := (len(self._held), self._marker, self._arguments, self._rest)):
            if self._arguments is not None:
                yield from self._read_arguments(self._arguments)
            elif self._rest is not None:
                self._skip(self._rest)
            elif self._marker is not None:
                yield from self._read_calls(self._marker)
            else:
                yield from self._read_text()

    def _read_text(self) -> Iterator[Event]:
        start = self._held.lstrip()
        marked = any(marker.startswith(start[: len(marker)]) for marker in ENDS)
        if not self._begun and start[:1] in ("{", "[") and not marked:
            self._marker, self._begun = "", True  # it may be nothing but calls
            return
        at, marker = min(
            ((at, marker) for marker in ENDS if (at := self._held.find(marker)) >= 0),
            default=(len(self._held) - max(_overlap(self._held, marker) for marker in ENDS), None),
        )
        shown = self._held[:at].rstrip()  # white space before a call isn't shown
        if marker is None:
            self._held = self._held[len(shown) :]
        else:
            end = at + len(marker)
            self._opening, self._held = self._held[len(shown) : end], self._held[end:]
            self._marker, self._begun, self._found = marker, True, False
        if shown:
            self._begun = True
            yield Text(shown)

    def _read_calls(self, marker: str) -> Iterator[Event]:
        """Reads the beginning of a call, or the end of calls."""
        start = self._held.lstrip()
        if marker and self._found and marker.startswith(start[: len(marker)]):
            if len(start) >= len(marker):
                self._held = start[len(marker) :]  # it is repeated before each call
            return
        if begin := _OBJECT.match(self._held):
            name = _text(begin[1])
            if not marker and not self._found and name not in self._functions:
                self._marker = None  # it is an answer in JSON
                return
            self._rest = _Scanner(1)
        elif marker == "[TOOL_CALLS]" and (begin := _NAMED.match(self._held)):
            name = begin[1]
        else:
            inside, end, rest = self._held.partition(ENDS.get(marker) or "\0")
            if end:
                yield from self._unusual(inside, end)
                self._held, self._marker = rest, None
            return
        self._arguments = _Scanner(0)
        self._held = self._held[begin.end() :]
        self._found = self._called = True
        yield Begin(name)

    def _read_arguments(self, scanner: _Scanner) -> Iterator[Event]:
        at = scanner.scan(self._held)
        if at:
            yield Arguments(self._held[:at])
        self._held = self._held[at:]
        if scanner.ended:
            self._arguments = None

    def _skip(self, scanner: _Scanner) -> None:
        self._held = self._held[scanner.scan(self._held) :]
        if scanner.ended:
            self._rest = None

    def _unusual(self, inside: str, end: str) -> list[Event]:
        """What is between markers and doesn't begin as calls do."""
        if self._found and not inside.strip(" \t\r\n,;]}"):
            return []
        calls = _calls(f"[{inside.strip(_BETWEEN)}]" if self._found else inside)
        if not calls and self._marker and (tagged := tagged_call(inside, self._functions)):
            calls = [Call(*tagged)]
        if not self._marker and not all(call.name in self._functions for call in calls):
            calls = []
        if not calls:
            return [Text(inside if self._found else self._opening + inside + end)]
        self._called = True
        return [event for call in calls for event in (Begin(call.name), Arguments(call.arguments))]


class _Scanner:
    """Looks for the end of a JSON object.

    Args:
        depth: How many braces have been opened before.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False
        self.ended = False

    def scan(self, text: str) -> int:
        """Where the object ends in more of its text, or the length of the text."""
        for at, character in enumerate(text):
            if self._in_string:
                self._in_string = character != '"' or self._escaped
                self._escaped = character == "\\" and not self._escaped
            elif character == "<":  # is in no JSON: the closing marker after too few braces
                self.ended = True
                return at
            else:
                self._in_string = character == '"'
                self._depth += (character in "{[") - (character in "]}")
                if self._depth <= 0:
                    self.ended = True
                    return at + 1
        return len(text)


def collect(events: Iterable[Event]) -> tuple[str, list[Call]]:
    """What events add up to."""
    text, calls = "", list[Call]()
    for event in events:
        match event:
            case Text():
                text += event.text
            case Begin():
                calls.append(Call(event.name, ""))
            case Arguments():
                calls[-1] = Call(calls[-1].name, calls[-1].arguments + event.text)
    return text, calls


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` with which `marker` begins."""
    return next((n for n in range(len(marker) - 1, 0, -1) if text.endswith(marker[:n])), 0)


def _text(literal: str) -> str:
    """The text of a JSON string; of one that is malformed what is between the quotes."""
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal[1:-1]


def _calls(text: str) -> list[Call]:
    """The calls that a text is as a whole, or none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _python_call(text)
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


def _python_call(text: str) -> list[Call]:
    """The call in `name.call(key="value")`, or none."""
    try:
        match ast.parse(text.strip(), mode="eval").body:
            case ast.Call(ast.Attribute(ast.Name(name), "call"), [], keywords):
                values = {word.arg: ast.literal_eval(word.value) for word in keywords if word.arg}
                return [Call(name, json.dumps(values, ensure_ascii=False))]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return []
