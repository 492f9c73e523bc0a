"""Chat templates: the Jinja text that a model was trained to see around messages.

The environment is that of transformers' `apply_chat_template`, so that a template renders the same.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pygpukit.llm.errors import ChatTemplateError

if TYPE_CHECKING:
    from jinja2.environment import Template

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, Any]
"""`{"role": "user", "content": "…"}`, and what else a model's template reads."""

_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
)
"""Tokens that end an assistant's turn; some files name only the end of the text."""

_HARMONY_ENDS = ("<|return|>", "<|call|>")
"""Those of gpt-oss, in whose turns "<|end|>" stands behind thoughts, which come before answers."""


@dataclass(frozen=True)
class ChatTemplate:
    """The templates of one model.

    Attributes:
        sources: Jinja text by name; a model's only template is called "default".
        special_tokens: What templates call `bos_token`, `eos_token` …
        origin: The file that the templates come from, for error messages.
    """

    sources: Mapping[str, str]
    special_tokens: Mapping[str, str]
    origin: str

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        **variables: Any,
    ) -> str:
        """The messages as the text that the model continues.

        Args:
            messages: The conversation.
            tools: JSON schemas of functions that the model may call.
            documents: For retrieval-augmented templates.
            add_generation_prompt: Whether to end with the beginning of the assistant's turn.
            chat_template: The name of a template, where the model has several.
            variables: What else the template reads, such as `enable_thinking`.

        Raises:
            ChatTemplateError: There is no such template, it has a syntax error, or it refuses the
                messages.
        """
        check_messages(messages)
        source = self._choose(chat_template, tools)
        try:
            return _compiled(source).render(
                messages=[dict(message) for message in messages],
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **{**self.special_tokens, **variables},
            )
        except Exception as error:  # a template is a program of its own, with any bug that it likes
            raise ChatTemplateError(f"{self.origin}: chat template: {error}") from error

    def mentions(self, text: str) -> bool:
        """Whether any of the templates writes `text`."""
        return any(text in source for source in self.sources.values())

    def turn_ends(self) -> list[str]:
        """The tokens that end an assistant's turn, as far as any of the templates writes them."""
        known = _HARMONY_ENDS if all(map(self.mentions, _HARMONY_ENDS)) else _TURN_ENDS
        return list(filter(self.mentions, known))

    def _choose(self, name: str | None, tools: object) -> str:
        if name is None:
            name = "tool_use" if tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise ChatTemplateError(
                f"{self.origin}: no chat template called {name!r}; there are "
                f"{', '.join(self.sources)}"
            )
        return self.sources[name]


def check_messages(messages: object) -> None:
    """Refuses what isn't a non-empty list of messages with a role.

    Raises:
        ChatTemplateError: Naming the message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ChatTemplateError(
            f"messages must be a list of {{'role': …, 'content': …}}, got {messages!r:.80}"
        )
    if not messages:
        raise ChatTemplateError("messages is empty; give at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ChatTemplateError(
                f"messages[{index}] must be a mapping with a 'role', got {message!r:.80}"
            )


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks what is trained on; it shows nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter escapes `<`, `>`, `&` and quotes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
