"""Chat templates, as transformers renders them and no more dangerous than text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pygpukit.llm import LLM, ChatTemplate, ChatTemplateError

USER = [{"role": "user", "content": "Hi"}]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template(source: str, **named: str) -> ChatTemplate:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate({"default": source, **named}, tokens, "tokenizer_config.json")


def test_messages() -> None:
    messages = [*USER, {"role": "assistant", "content": "Hello"}]
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    chatml = template(CHATML)
    assert chatml.render(messages, add_generation_prompt=False) == text
    assert chatml.render(messages) == text + "<|im_start|>assistant\n"


def test_special_tokens_and_variables() -> None:
    source = "{{ bos_token }}{{ enable_thinking }}{{ eos_token }}{{ missing }}"
    assert template(source).render(USER, enable_thinking=False) == "<s>False</s>"


def test_white_space_as_transformers_has_it() -> None:
    source = "{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\ny"
    assert template(source).render(USER) == "x\ny"


def test_json_is_not_escaped_for_html() -> None:
    tools = [{"type": "function", "function": {"name": "é<&>'", "parameters": {"b": 1, "a": 2}}}]
    rendered = template("{{ tools[0].function | tojson }}").render(USER, tools=tools)
    assert rendered == '{"name": "é<&>\'", "parameters": {"b": 1, "a": 2}}'
    assert template("{{ [1] | tojson(indent=1) }}").render(USER) == "[\n 1\n]"


def test_loop_controls_dates_and_generation_marks() -> None:
    source = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert template(source).render(USER) == "01"
    assert re.fullmatch(r"\d{4}", template("{{ strftime_now('%Y') }}").render(USER))
    source = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert template(source).render(USER) == "Hi"


def test_what_ends_a_turn() -> None:
    assert template(CHATML).turn_ends() == ["<|im_end|>"]
    assert template("<|end|>{{ messages[0].content }}<|eot_id|>").turn_ends() == [
        "<|eot_id|>",
        "<|end|>",
    ]
    # In gpt-oss's turns thoughts end before answers do.
    harmony = template("<|start|>user<|message|>Hi<|end|>{# <|call|> #}", more="<|return|>")
    assert harmony.turn_ends() == ["<|return|>", "<|call|>"]


def test_named_templates() -> None:
    named = template("plain", tool_use="tools", rag="documents")
    assert named.render(USER) == "plain"
    assert named.render(USER, tools=[{}]) == "tools"
    assert named.render(USER, chat_template="rag") == "documents"
    with pytest.raises(ChatTemplateError, match="no chat template called 'other'; there are"):
        named.render(USER, chat_template="other")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include 'file' %}",
        "{{ range(10**9) | list }}",
    ],
)
def test_the_sandbox(source: str) -> None:
    messages = [dict(message) for message in USER]
    with pytest.raises(ChatTemplateError, match=r"tokenizer_config\.json"):
        template(source).render(messages)
    assert messages == USER


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ missing.attribute }}", "'missing' is undefined"),
    ],
)
def test_errors_of_a_template(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=rf"tokenizer_config\.json: .*{message}"):
        template(source).render(USER)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("Hi", "messages must be a list"),
        ({"role": "user"}, "messages must be a list"),
        (None, "messages must be a list"),
        ([*USER, "Hi"], r"messages\[1\] must be a mapping with a 'role'"),
        ([{"content": "Hi"}], r"messages\[0\] must be a mapping with a 'role'"),
        ([{"role": 1}], r"messages\[0\] must be a mapping with a 'role'"),
    ],
)
def test_what_is_no_conversation(messages: Any, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        template(CHATML).render(messages)


def test_chat(scripted: Callable[..., LLM]) -> None:
    llm = scripted(
        [*b"Hello", 259],
        prompt_length=len("1user1Hi11") + len("assistant") + 2,
        tokenizer_config={"chat_template": CHATML},
    )
    assert llm.has_chat_template
    answer = llm.chat(USER)
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    assert "".join(llm.chat_stream(USER)) == "Hello"
    assert llm.chat(USER, max_new_tokens=2).text == "He"


def test_a_template_in_a_file_of_its_own_wins(logits_model: Callable[..., Path]) -> None:
    named = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "tools"}]
    folder = logits_model([[0.0, 1.0]] * 4, tokenizer_config={"chat_template": named})
    assert LLM.from_pretrained(folder, device="cpu").apply_chat_template(USER) == "old"
    (folder / "chat_template.jinja").write_text("new {{ messages[0].content }}")
    llm = LLM.from_pretrained(folder, device="cpu")
    assert llm.apply_chat_template(USER) == "new Hi"
    assert llm.apply_chat_template(USER, tools=[{}]) == "tools"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents[0] }}")
    llm = LLM.from_pretrained(folder, device="cpu")
    more = {"documents": ["D"], "chat_template": "rag"}
    assert llm.apply_chat_template(USER, **more) == "D"


def test_special_tokens_of_older_folders(logits_model: Callable[..., Path]) -> None:
    files = {
        "special_tokens_map": {"bos_token": {"content": "<s>"}, "eos_token": "</s>"},
        "tokenizer_config": {
            "bos_token": None,
            "eos_token": "<end>",
            "chat_template": "{{ bos_token }}{{ eos_token }}",
        },
    }
    folder = logits_model([[0.0, 1.0]] * 4, **files)
    assert LLM.from_pretrained(folder, device="cpu").apply_chat_template(USER) == "<s><end>"


def test_variables_of_the_template(scripted: Callable[..., LLM]) -> None:
    source = "{% if enable_thinking %}abc{% else %}a{% endif %}"
    llm = scripted("x", tokenizer_config={"chat_template": source})
    options = {"enable_thinking": True}
    answer = llm.chat(USER, template_options=options, max_new_tokens=1)
    assert answer.usage.prompt_tokens == 3
    assert llm.chat(USER, max_new_tokens=1).usage.prompt_tokens == 1


def test_a_model_without_a_template(scripted: Callable[..., LLM]) -> None:
    llm = scripted("x")
    assert not llm.has_chat_template
    with pytest.raises(ChatTemplateError, match="the model has no chat template"):
        llm.chat(USER)
