"""Compares chat templates with what transformers renders, byte for byte.

    uv run --with transformers --with tokenizers scripts/compare_chat_templates.py FOLDER…

Each folder has a tokenizer_config.json, and a chat_template.jinja if it likes. What one side
refuses the other has to refuse as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pygpukit.llm.checkpoint import read_chat_template
from pygpukit.llm.errors import ChatTemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & 'here' in \"any\" city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Zürich, 東京 …"},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "a sentence"},
    },
}
CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "unit": "°C"}},
}
TURNS = [
    {"role": "user", "content": "  Hello <there> & 'you'\n"},
    {"role": "assistant", "content": "Hi! 你好 🙂"},
    {"role": "user", "content": "And?"},
]
SYSTEM = [{"role": "system", "content": "Be brief."}]
CALLED = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "18 °C"},
]
THOUGHT = {
    "role": "assistant",
    "content": "<think>\nhm\n</think>\n\nYes.",
    "reasoning_content": "hm",
}
CONVERSATIONS = {
    "turns": TURNS,
    "system": [*SYSTEM, *TURNS],
    "answered": [*SYSTEM, *TURNS, {"role": "assistant", "content": "Well."}],
    "thought": [*TURNS[:1], THOUGHT, *TURNS[2:]],
    "called": [*SYSTEM, *CALLED],
    "called and answered": [*CALLED, {"role": "assistant", "content": "Mild."}, *TURNS[:1]],
    "two users": [*TURNS[:1], *TURNS[2:]],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
}
DOCUMENTS = [{"title": "A", "text": "First."}, {"title": "B", "text": "Second."}]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no generation prompt": {"add_generation_prompt": False},
    "tools": {"tools": [WEATHER]},
    "documents": {"documents": DOCUMENTS},
    "thinking": {"enable_thinking": True},
    "not thinking": {"enable_thinking": False},
    "effort": {"reasoning_effort": "high", "tools": [WEATHER]},
}


def reference(folder: Path) -> PreTrainedTokenizerFast:
    """Transformers' tokenizer of that configuration, over an empty vocabulary."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
    special = {name: config[name] for name in names if config.get(name)}
    texts = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in special.items()
    }
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text()
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    empty = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    return PreTrainedTokenizerFast(tokenizer_object=empty, chat_template=template, **texts)


def compare(folder: Path) -> tuple[int, int]:
    """How many conversations were rendered, and how many differ."""
    template, tokenizer = read_chat_template(folder), reference(folder)
    if template is None:
        print(f"{folder.name}: no template")
        return 0, 0
    rendered = differing = 0
    for name, messages in CONVERSATIONS.items():
        for option, arguments in OPTIONS.items():
            arguments = {"add_generation_prompt": True, **arguments}
            try:
                expected = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
            except Exception as error:  # whatever the template raises
                expected = error
            try:
                found: str | Exception = template.render(messages, **arguments)
            except ChatTemplateError as error:
                found = error
            same = found == expected or (
                isinstance(found, Exception) and isinstance(expected, Exception)
            )
            rendered += isinstance(expected, str)
            differing += not same
            if not same:
                print(f"{folder.name}, {name}, {option}:\n  {expected!r}\n  {found!r}")
    print(f"{folder.name}: {rendered} rendered, {differing} differ")
    return rendered, differing


def main() -> None:
    """Compares the templates of the folders that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    results = [compare(folder) for folder in parser.parse_args().folders]
    print(f"in all: {sum(r for r, _ in results)} rendered, {sum(d for _, d in results)} differ")
    raise SystemExit(any(differing for _, differing in results))


if __name__ == "__main__":
    main()
