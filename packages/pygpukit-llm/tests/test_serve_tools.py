"""Calls of tools in the text of a model, whole and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra: serve", exc_type=ImportError)

import itertools

from pygpukit.llm.serve.tools import Call, CallParser

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
CALL = Call("add", '{"a": 1, "b": [2]}')


def parse(pieces: list[str]) -> tuple[str, list[Call]]:
    parser = CallParser()
    shown = "".join(parser.push(piece) for piece in pieces)
    rest, calls = parser.finish()
    return shown + rest, calls


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Hello", "Hello", []),
        ("", "", []),
        ("1 < 2 <tool", "1 < 2 <tool", []),
        (ADD, "", [CALL]),
        (f"Let me see. {ADD}\n{ADD}", "Let me see. ", [CALL, CALL]),
        ('{"name": "add", "parameters": {"a": 1, "b": [2]}}', "", [CALL]),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]', "",
         [Call("f", "{}"), Call("g", "{}")]),
        ('{"answer": 42}', '{"answer": 42}', []),
        ("[1, 2]", "[1, 2]", []),
        ("<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", []),
        ('<tool_call>{"name": 3}', '<tool_call>{"name": 3}', []),
        ('<tool_call>{"name": "f", "arguments": {}}', "", [Call("f", "{}")]),
    ],
)  # fmt: skip
def test_calls(text: str, shown: str, calls: list[Call]) -> None:
    assert parse([text]) == (shown, calls)
    assert parse(list(text)) == (shown, calls)


@given(st.lists(st.sampled_from([ADD, "Hi ", "<", "<tool_call>", "{", "</tool_call>", "\n", "x"])),
       st.data())  # fmt: skip
def test_pieces_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    shown, calls = parse(pieces)
    whole, expected = parse([text])
    assert (shown.rstrip(), calls) == (whole.rstrip(), expected)
    if not calls:
        assert shown == text
