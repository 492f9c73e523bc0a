"""The tools that a request offers: which the model may call, and which it has to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pygpukit.llm.llm import LLM
from pygpukit.llm.request import Constraint
from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.calls import MARKERS
from pygpukit.llm.serve.errors import ApiError
from pygpukit.llm.serve.tagged import Schema

if TYPE_CHECKING:
    from pygpukit.tokenizer import Tokenizer

__all__ = ["CallSyntax", "Tools", "call_syntax", "read_tools", "shown_ids"]


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a model writes calls: `before`, one or more calls with `between` among them, `after`.

    Markers stand in these as they are. A call is `opening`, the arguments as JSON, and `closing`;
    in the opening `%s` stands for the name. Where there is an `argument`, each of them is written
    on its own: this is what is before the value, with `%s` for its name, and what is behind it.
    """

    opening: str
    closing: str
    before: str = ""
    between: str | None = None
    after: str = ""
    argument: tuple[str, str] | None = None


_LISTED = '{"name": "%s", "arguments": '

HERMES = CallSyntax(f"<tool_call>\n{_LISTED}", "}\n</tool_call>", between="\n")
GRANITE = CallSyntax(_LISTED, "}", before="<|tool_call|>[", between=", ", after="]")
MISTRAL = CallSyntax("[TOOL_CALLS]%s[ARGS]", "", between="")
MISTRAL_LIST = CallSyntax(_LISTED, "}", before="[TOOL_CALLS][", between=", ", after="]")
QWEN_CODER = CallSyntax(
    "<tool_call>\n<function=%s>\n",
    "</function>\n</tool_call>",
    between="\n",
    argument=("<parameter=%s>\n", "\n</parameter>\n"),
)
GLM = CallSyntax(
    "<tool_call>%s\n",
    "</tool_call>",
    between="\n",
    argument=("<arg_key>%s</arg_key>\n<arg_value>", "</arg_value>\n"),
)
LLAMA = CallSyntax('{"name": "%s", "parameters": ', "}")

_MENTIONED = (
    (("<function=", "<parameter="), QWEN_CODER),
    (("<arg_key>", "<arg_value>"), GLM),
    (('"tool_name"',), None),  # Command R's
    (("<tool_call>", '"arguments"'), HERMES),
    (("<|tool_call|>",), GRANITE),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL),
    (("[TOOL_CALLS]",), MISTRAL_LIST),
    (('{"name": ', '"parameters": '), LLAMA),
)
"""What a chat template mentions, and the syntax that it is a sign of; the first counts."""


def call_syntax(llm: LLM) -> CallSyntax | None:
    """How the model writes calls, as far as its chat template shows; None where it doesn't."""
    template = llm.template
    if template is None:
        return None
    for texts, syntax in _MENTIONED:
        if all(map(template.mentions, texts)):
            return syntax
    return None


def shown_ids(tokenizer: Tokenizer) -> dict[int, str]:
    """The special tokens that mark calls, which the text of an answer is to show."""
    ids = {tokenizer.token_to_id(marker): marker for marker in MARKERS}
    return {
        id_: marker
        for id_, marker in ids.items()
        if id_ is not None and tokenizer.token_bytes(id_) is None
    }


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of a request.

    Attributes:
        schemas: What the chat template gets; None where the model is to know of no tools.
        functions: The parameters' schemas of the functions that may be called, by their names.
        constraint: Makes what holds the output to calls; None where there need be none.
        id_length: Of the ids that calls get.
    """

    schemas: list[dict[str, Any]] | None
    functions: Mapping[str, Schema] = field(default_factory=dict)
    constraint: Callable[[], Constraint] | None = None
    id_length: int = 24


def read_tools(body: Body, llm: LLM) -> Tools:
    """The tools that a request offers, and what it says of their choice.

    Raises:
        ApiError: A key is malformed, or calls are required in a syntax that isn't known.
        GrammarError: A function's parameters aren't understood as a JSON schema.
    """
    schemas, choice = body.objects("tools"), body.take("tool_choice")
    parallel = body.take("parallel_tool_calls")
    if parallel not in (None, True, False):
        raise _wrong("parallel_tool_calls", "true or false", parallel)
    mode, name = _read_choice(choice)
    if not schemas or mode == "none":
        if mode == "required":
            raise ApiError(400, "tool_choice: there are no tools to call", param="tool_choice")
        return Tools(None)
    functions = dict(_function(index, schema) for index, schema in enumerate(schemas))
    syntax = call_syntax(llm)
    # Mistral's chat templates insist on the length.
    id_length = 9 if syntax in (MISTRAL, MISTRAL_LIST) else 24
    if mode == "auto":
        return Tools(schemas, functions, None, id_length)
    if syntax is None:
        message = (
            "tool_choice: calls can't be required of this model, whose chat template doesn't show "
            "in a known way how it writes them; leave it out, or use response_format"
        )
        raise ApiError(400, message, param="tool_choice")
    if name is not None:
        if name not in functions:
            raise _wrong("tool_choice", f"the name of one of {', '.join(functions)}", name)
        functions = {name: functions[name]}
    grammar = _grammar(llm, syntax, functions, several=name is None and parallel is not False)
    return Tools(schemas, functions, lambda: llm.grammars.lark(grammar), id_length)


_Mode = Literal["auto", "none", "required"]


def _read_choice(choice: object) -> tuple[_Mode, str | None]:
    """Whether calls are allowed, and the name of the function that has to be called, if any."""
    match choice:
        case None | "auto":
            return "auto", None
        case "none" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", name
    raise _wrong("tool_choice", "auto, none, required, or a function with its name", choice)


def _function(index: int, schema: Mapping[str, Any]) -> tuple[str, Schema]:
    """The name and the parameters' schema of a tool."""
    match schema:
        case {"type": "function", "function": {"name": str(name), **rest}} if name:
            parameters = rest.get("parameters")
            if parameters is None or isinstance(parameters, dict):
                return name, parameters or {"type": "object"}
    raise _wrong(f"tools[{index}]", "a function with a name and parameters", schema)


def _grammar(
    llm: LLM, syntax: CallSyntax, functions: Mapping[str, Schema], *, several: bool
) -> str:
    """The calls of some functions, in Lark's notation."""

    def literal(text: str) -> str:
        return _literal(text, llm.tokenizer)

    calls, rules = [], []
    for index, (name, schema) in enumerate(functions.items()):
        opening = literal(syntax.opening.replace("%s", json.dumps(name, ensure_ascii=False)[1:-1]))
        calls.append(f"{opening} arguments_{index} {literal(syntax.closing)}")
        if syntax.argument is None:
            rules.append(f"arguments_{index}: %json {json.dumps({'type': 'object', **schema})}")
        else:
            rules += _tagged_arguments(f"arguments_{index}", schema, syntax.argument)
    more = ""
    if several and syntax.between is not None:
        more = f"({literal(syntax.between)} call)*"
    start = f"start: {literal(syntax.before)} call {more} {literal(syntax.after)}"
    return "\n".join([start, f"call: {' | '.join(calls)}", *rules])


def _tagged_arguments(rule: str, schema: Schema, tags: tuple[str, str]) -> list[str]:
    """The rules of arguments that are written one by one, in the schema's order."""
    properties, required = schema.get("properties"), schema.get("required")
    parts, rules = ['""'], list[str]()
    for index, (key, value) in enumerate((properties or {}).items()):
        name = f"{rule}_{index}"
        opening, closing = json.dumps(tags[0].replace("%s", key)), json.dumps(tags[1])
        part = f"{opening} {name} {closing}"
        if not isinstance(value, dict) or value.get("type") != "string":
            rules.append(f"{name}: %json {json.dumps(value)}")
        elif isinstance(value.get("enum"), list):
            rules.append(f"{name}: {' | '.join(json.dumps(str(one)) for one in value['enum'])}")
        else:
            part = f"{opening} {name}"
            rules.append(f"{name}[suffix={closing}]: /(.|\\n)*/")
        parts.append(part if key in (required or []) else f"({part})?")
    return [f"{rule}: {' '.join(parts)}", *rules]


def _literal(text: str, tokenizer: Tokenizer | None) -> str:
    """Text in Lark's notation, in which markers may be special tokens."""
    shown = {} if tokenizer is None else shown_ids(tokenizer)
    special = {marker: f"<[{id_}]>" for id_, marker in shown.items()}
    parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
    return " ".join(
        special.get(part) or json.dumps(part, ensure_ascii=False) for part in parts if part
    )


def _wrong(key: str, expected: str, found: object) -> ApiError:
    param = key.partition("[")[0]
    return ApiError(400, f"{key}: expected {expected}, found {found!r:.80}", param=param)
