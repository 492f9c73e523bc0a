"""Tools over real connections: offered, required, and their calls told as they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pygpukit.llm import LLM
from pygpukit.tokenizer import Tokenizer

pytest.importorskip("uvicorn", reason="the extra: serve", exc_type=ImportError)
pytest.importorskip("llguidance", reason="the extra: serve", exc_type=ImportError)
openai = pytest.importorskip("openai", reason="OpenAI's client", exc_type=ImportError)

from serving import CHAT, client_of, served  # noqa: E402

INTEGER = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
           "required": ["a"], "additionalProperties": False}  # fmt: skip
ADD = {"type": "function", "function": {"name": "add", "parameters": INTEGER}}
NEGATE = {"type": "function", "function": {"name": "negate", "parameters": INTEGER}}
REQUEST: dict[str, Any] = {
    "model": "test",
    "messages": [{"role": "user", "content": "x"}],
    "tools": [ADD, NEGATE],
}
HERMES = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'

TEMPLATES = {
    "hermes": '<tool_call>{"name": ..., "arguments": ...}</tool_call>',
    "granite": "<|tool_call|>",
    "mistral": "[TOOL_CALLS]name[ARGS]",
    "mistral, older": "[TOOL_CALLS]",
    "qwen coder": "<tool_call><function=name><parameter=key>",
    "glm": "<tool_call><arg_key></arg_key><arg_value></arg_value>",
    "llama": '{"name": ..., "parameters": ...}',
}
"""What chat templates mention."""


@pytest.fixture
def model(scripted: Callable[..., LLM], byte_tokenizer: Callable[..., dict[str, Any]]):
    """A model that says something, with a chat template, and special tokens in place of its own."""

    def model(text: str, mentions: str = "", special: tuple[str, ...] = ()) -> LLM:
        tokenizer = byte_tokenizer()
        for entry, content in zip(tokenizer["added_tokens"][2:], special, strict=False):
            entry["content"] = content
        template = CHAT + "{# " + mentions + " #}"
        return scripted(
            [*Tokenizer.from_dict(tokenizer).encode_ids(text), 257],
            context_length=200,
            tokenizer=tokenizer,
            tokenizer_config={"chat_template": template, "eos_token": "<|end|>"},
        )

    return model


def streamed(client: openai.OpenAI, **request: object) -> tuple[str, list[dict[str, str]], str]:
    """Text, calls and finish reason, put together as OpenAI's documentation tells."""
    text, calls, reason = "", list[dict[str, str]](), ""
    for chunk in client.chat.completions.create(**REQUEST, **request, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or []:
            if call.id is not None:
                assert call.index == len(calls)
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            assert call.index == len(calls) - 1
            calls[call.index]["arguments"] += call.function.arguments
        reason = chunk.choices[0].finish_reason or reason
    return text, calls, reason


def test_calls_whole_and_streamed(model: Callable[..., LLM]) -> None:
    llm = model(f"Well: {HERMES}")
    with served(llm) as address, client_of(address) as client:
        (choice,) = client.chat.completions.create(**REQUEST).choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Well:")
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name, call.function.arguments) == (
            "function", "add", '{"a": 1}',
        )  # fmt: skip
        text, (found,), reason = streamed(client)
        assert (text, found["name"], found["arguments"]) == ("Well:", "add", '{"a": 1}')
        assert (found["id"][:5], reason) == ("call_", "tool_calls")
        (plain,) = client.chat.completions.create(**REQUEST, tool_choice="none").choices
        assert (plain.message.content, plain.finish_reason) == (f"Well: {HERMES}", "stop")


def test_a_call_that_is_cut_off(model: Callable[..., LLM]) -> None:
    with served(model(HERMES)) as address, client_of(address) as client:
        length = HERMES.index("1}")
        (choice,) = client.chat.completions.create(**REQUEST, max_tokens=length).choices
        assert (choice.finish_reason, choice.message.content) == ("length", None)
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("add", '{"a": ')
        text, (found,), reason = streamed(client, max_tokens=length)
        assert (text, found["arguments"], reason) == ("", '{"a": ', "length")


def test_log_probabilities_beside_calls(model: Callable[..., LLM]) -> None:
    request: dict[str, Any] = {**REQUEST, "logprobs": True}
    with served(model(f"x{HERMES}")) as address, client_of(address) as client:
        (choice,) = client.chat.completions.create(**request).choices
        tokens = []
        for chunk in client.chat.completions.create(**request, stream=True):
            logprobs = chunk.choices[0].logprobs
            tokens += logprobs.content if logprobs is not None else []
        assert tokens == choice.logprobs.content


@pytest.mark.parametrize("special", [("[TOOL_CALLS]", "[ARGS]"), ()])
def test_markers_that_are_special_tokens(model: Callable[..., LLM], special: tuple[str, ...]):
    llm = model('[TOOL_CALLS]add[ARGS]{"a": 1}', TEMPLATES["mistral"], special)
    with served(llm) as address, client_of(address) as client:
        text, (call,), reason = streamed(client)
        assert (text, call["name"], call["arguments"]) == ("", "add", '{"a": 1}')
        assert reason == "tool_calls"
        assert len(call["id"]) == 9, "as Mistral's chat templates want it"
        assert call["id"].isalnum()


@pytest.mark.parametrize("special", [("[TOOL_CALLS]", "[ARGS]"), ("<|tool_call|>",), ()])
@pytest.mark.parametrize("syntax", TEMPLATES)
def test_calls_that_are_required(
    model: Callable[..., LLM], syntax: str, special: tuple[str, ...]
) -> None:
    """Of a model to which all tokens are alike, or that would say something else."""
    llm = model("No.", TEMPLATES[syntax], special)
    with served(llm) as address, client_of(address) as client:
        for choice in ("required", {"type": "function", "function": {"name": "negate"}}):
            request = {**REQUEST, "tool_choice": choice, "temperature": 1.0, "seed": 3}
            request["parallel_tool_calls"] = False
            (answer,) = client.chat.completions.create(**request).choices
            assert (answer.message.content, answer.finish_reason) == (None, "tool_calls")
            (call,) = answer.message.tool_calls
            assert call.function.name in (["add", "negate"] if choice == "required" else ["negate"])
            assert 0 <= json.loads(call.function.arguments)["a"] <= 9


@pytest.mark.parametrize("syntax", ["qwen coder", "glm"])
def test_required_arguments_in_tags(model: Callable[..., LLM], syntax: str) -> None:
    properties = {
        "text": {"type": "string"},
        "kind": {"type": "string", "enum": ["a<b", "c"]},
        "flag": {"type": "boolean"},
        "free": {"type": "integer"},
    }
    parameters = {"properties": properties, "required": ["text", "kind", "flag"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    tools += [{"type": "function", "function": {"name": "g"}}]
    text = "1 <\n2"
    start = {"qwen coder": "<tool_call>\n<function=f>\n<parameter=text>\n", "glm": "<tool_call>f\n"
             "<arg_key>text</arg_key>\n<arg_value>"}[syntax]  # fmt: skip
    end = {"qwen coder": "\n</parameter>\n", "glm": "</arg_value>\n"}[syntax]
    llm = model(f"{start}{text}{end}", TEMPLATES[syntax])
    with served(llm) as address, client_of(address) as client:
        request = {**REQUEST, "tools": tools, "temperature": 0, "parallel_tool_calls": False}
        function = {"type": "function", "function": {"name": "f"}}
        (choice,) = client.chat.completions.create(**request, tool_choice=function).choices
        arguments = json.loads(choice.message.tool_calls[0].function.arguments)
        assert arguments["text"] == text
        assert arguments["kind"] in ("a<b", "c")
        assert arguments["flag"] in (True, False)
        assert set(arguments) <= set(properties)
        nothing = {"type": "function", "function": {"name": "g"}}
        (choice,) = client.chat.completions.create(**request, tool_choice=nothing).choices
        assert choice.message.tool_calls[0].function.arguments == "{}"


def test_several_calls_that_are_required(model: Callable[..., LLM]) -> None:
    llm = model("", TEMPLATES["hermes"])
    counts = set()
    with served(llm) as address, client_of(address) as client:
        for seed in range(6):
            text, calls, reason = streamed(
                client, tool_choice="required", temperature=1.0, seed=seed
            )
            assert reason == "length" or text == ""
            counts.add(len(calls))
    assert max(counts) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tool_choice": "maybe"}, "tool_choice: expected auto, none, required, or a function"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}},
         "tool_choice: expected the name of one of add, negate, found 'f'"),
        ({"tool_choice": "required", "tools": []}, "there are no tools to call"),
        ({"tools": [{"type": "function", "function": {}}]}, r"tools\[0\]: expected a function"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls: expected true or false"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}},
         "response_format can't be combined"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         r"messages\[0\]\.content\[0\]: expected a part of the type text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    model: Callable[..., LLM], changes: dict[str, Any], message: str
) -> None:
    with (
        served(model("x", TEMPLATES["hermes"])) as address,
        client_of(address) as client,
        pytest.raises(openai.BadRequestError, match=message),
    ):
        client.chat.completions.create(**{**REQUEST, **changes})


def test_calls_cannot_be_required_where_their_syntax_is_not_known(
    model: Callable[..., LLM],
) -> None:
    with (
        served(model("x")) as address,
        client_of(address) as client,
        pytest.raises(openai.BadRequestError, match="calls can't be required of this model"),
    ):
        client.chat.completions.create(**REQUEST, tool_choice="required")


def test_templates_get_texts_and_arguments_as_objects(scripted: Callable[..., LLM]) -> None:
    template = (
        "{% for message in messages %}{{ message.content }}"
        "{% for call in message.tool_calls or [] %}{{ call.function.arguments.a + 1 }}{% endfor %}"
        "{% endfor %}"
    )
    files = {"tokenizer_config": {"chat_template": template, "eos_token": "<|end|>"}}
    function = {"name": "add", "arguments": '{"a": 41}'}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
    ]
    llm = scripted([*b"yes", 257], prompt_length=len("ab42"), **files)
    with served(llm) as address, client_of(address) as client:
        answer = client.chat.completions.create(model="test", messages=messages)
    assert (answer.choices[0].message.content, answer.usage.prompt_tokens) == ("yes", 4)
