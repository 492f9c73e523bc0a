"""Calls of tools in the text of a model, whole and cut anywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra: serve", exc_type=ImportError)

from pygpukit.llm.serve.calls import Arguments, Begin, Call, CallParser, Event, Text, collect

OBJECT = '{"name": "add", "arguments": {"a": 1, "b": [2]}}'
ADD = f"<tool_call>\n{OBJECT}\n</tool_call>"
CALL = Call("add", '{"a": 1, "b": [2]}')
NAMED = '[TOOL_CALLS]add[ARGS]{"a": 1, "b": [2]}'
LLAMA = '{"name": "add", "parameters": {"a": 1, "b": [2]}}'


WEATHER = {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTIONS: dict[str, Any] = {"add": {}, "f": {}, "g": {}, "weather": WEATHER}


def parse(pieces: list[str]) -> tuple[str, list[Call]]:
    parser = CallParser(FUNCTIONS)
    events = [event for piece in pieces for event in parser.push(piece)]
    return collect([*events, *parser.finish()])


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Hello \n", "Hello \n", []),
        ("", "", []),
        ("  ", "  ", []),
        ("1 < 2 <tool", "1 < 2 <tool", []),
        ('{"answer": 42}', '{"answer": 42}', []),
        ('{"name": "Bob", "arguments": {"a": 1}} ', '{"name": "Bob", "arguments": {"a": 1}} ', []),
        ("[1, 2]", "[1, 2]", []),
        # Hermes, Qwen, SmolLM
        (ADD, "", [CALL]),
        (f"Let me see. {ADD}\n{ADD}\n", "Let me see.", [CALL, CALL]),
        (f"{ADD}\nDone.", "\nDone.", [CALL]),
        (f"<tool_call>[{OBJECT}, {OBJECT}]</tool_call>", "", [CALL, CALL]),
        ("<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", []),
        ('<tool_call>{"name": 3}', '<tool_call>{"name": 3}', []),
        ('<tool_call>{"name": "f", "arguments": {}}', "", [Call("f", "{}")]),
        ('<tool_call>{"arguments": {"a":1}, "name": "h"}</tool_call>', "", [Call("h", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": {}}</tool_call>x', "x",
         [Call("f", '{"a": {}}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\"}</tool_call>"}}</tool_call>', "",
         [Call("f", '{"a": "\\"}</tool_call>"}')]),
        # Qwen3-Coder
        ("<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n"
         "</parameter>\n<parameter=more>\nTrue\n</parameter>\n</function>\n</tool_call>", "",
         [Call("weather", '{"city": "12", "days": 3, "more": true}')]),
        # GLM-4.5
        ("A\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Lon\ndon</arg_value>\n"
         "<arg_key>days</arg_key>\n<arg_value>[1]</arg_value>\n</tool_call>"
         "<tool_call>f\n</tool_call>", "A",
         [Call("weather", '{"city": "Lon\\ndon", "days": [1]}'), Call("f", "{}")]),
        ("<tool_call>word</tool_call>", "<tool_call>word</tool_call>", []),
        # Cut off by the limit of tokens
        ('<tool_call>{"name": "f", "arguments": {"a": "b', "", [Call("f", '{"a": "b')]),
        # Granite, Phi-4-mini
        (f"<|tool_call|>[{OBJECT}]", "", [CALL]),
        (f"<|tool_call|>[{OBJECT}]<|/tool_call|>", "", [CALL]),
        # Mistral, older and newer
        (f"[TOOL_CALLS][{OBJECT}]", "", [CALL]),
        (f'[TOOL_CALLS] [{OBJECT}, {{"name": "g", "arguments": {{}}, "id": "}}"}}]', "",
         [CALL, Call("g", "{}")]),
        (f"Well. {NAMED}{NAMED}", "Well.", [CALL, CALL]),
        ('[TOOL_CALLS]add[CALL_ID]aB3[ARGS]{"a": 1, "b": [2]}', "", [CALL]),
        ('[TOOL_CALLS]add{"a": 1, "b": [2]}', "", [CALL]),
        ("[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
        # Llama 3
        (LLAMA, "", [CALL]),
        (f"{LLAMA}; {LLAMA}", "", [CALL, CALL]),
        ('{"type": "function", "name": "f", "parameters": {}}', "", [Call("f", "{}")]),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]', "",
         [Call("f", "{}"), Call("g", "{}")]),
        (f"<|python_tag|>{LLAMA}", "", [CALL]),
        ('<|python_tag|>search.call(query="a b", n=3)', "",
         [Call("search", '{"query": "a b", "n": 3}')]),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ],
)  # fmt: skip
def test_calls(text: str, shown: str, calls: list[Call]) -> None:
    assert parse([text]) == (shown, calls)
    assert parse(list(text)) == (shown, calls)


def test_arguments_come_as_they_are_written() -> None:
    parser, told = CallParser(FUNCTIONS), list[list[Event]]()
    for piece in ["Hm", " <tool", '_call>{"name": "add", "arg', 'uments": ', '{"a"', ": 1", "}}"]:
        told.append(parser.push(piece))
    told.append(parser.finish())
    assert told == [
        [Text("Hm")],
        [],
        [],
        [],
        [Begin("add"), Arguments('{"a"')],
        [Arguments(": 1")],
        [Arguments("}")],
        [],
    ]


PARTS = [ADD, OBJECT, LLAMA, NAMED, "[TOOL_CALLS]", "<tool_call>", "</tool_call>", "<|python_tag|>",
         "add[ARGS]", "Hi ", "<", "[", "{", "}", '"', ",", "\n", "\\", "x"]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS)), st.data())
def test_pieces_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    shown, calls = parse(pieces)
    assert (shown, calls) == parse([text])
    if not calls:
        assert shown == text
