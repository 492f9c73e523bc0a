"""`pygpukit generate`: one prompt, one answer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from pygpukit.llm.cli.loading import load_model
from pygpukit.llm.cli.options import generation_options
from pygpukit.llm.errors import PromptError
from pygpukit.llm.generation import Generation
from pygpukit.llm.llm import LLM, GenerationOptions
from pygpukit.llm.output import Stream

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Streams the answer to stdout, or prints it as JSON."""
    prompt = _read_prompt(arguments.prompt)
    options = generation_options(arguments)
    started = time.perf_counter()
    llm = load_model(arguments)
    loaded = time.perf_counter()
    stream = _start(llm, prompt, arguments, options)
    first = None
    for piece in stream:
        first = first or time.perf_counter()
        if not arguments.json:
            print(piece, end="", flush=True)
    ended = time.perf_counter()
    if arguments.json:
        timings = {
            "load_s": loaded - started,
            "first_token_s": (first or ended) - loaded,
            "generate_s": ended - loaded,
        }
        print(json.dumps(_report(stream.generation, timings), ensure_ascii=False))
    else:
        _finish(stream.generation)


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"the prompt on stdin isn't valid {error.encoding}") from error


def _start(
    llm: LLM, prompt: str, arguments: argparse.Namespace, options: GenerationOptions
) -> Stream:
    if arguments.raw or not llm.has_chat_template:
        if arguments.system is not None:
            raise PromptError("--system needs a chat template; the prompt is continued as it is")
        return llm.stream(prompt, **options)
    if not prompt:
        raise PromptError("the prompt is empty")
    messages = [{"role": "user", "content": prompt}]
    if arguments.system is not None:
        messages.insert(0, {"role": "system", "content": arguments.system})
    return llm.chat_stream(messages, **options)


def _finish(generation: Generation) -> None:
    if not generation.text.endswith("\n"):
        print(flush=True)
    for id_, entry in zip(generation, generation.logprobs or (), strict=False):
        top = "  ".join(f"{other}: {value:.4f}" for other, value in entry.top.items())
        print(f"token {id_}: {entry.logprob:.4f}  [{top}]", file=sys.stderr)


def _report(generation: Generation, timings: dict[str, float]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "text": generation.text,
        "ids": list(generation),
        "finish_reason": generation.finish_reason,
        "usage": generation.usage._asdict(),
        "timings": {name: round(seconds, 4) for name, seconds in timings.items()},
    }
    if generation.logprobs is not None:
        report["logprobs"] = [
            {"logprob": entry.logprob, "top": {str(id_): v for id_, v in entry.top.items()}}
            for entry in generation.logprobs
        ]
    return report
