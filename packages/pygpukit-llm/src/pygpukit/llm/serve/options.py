"""How a request says that tokens are chosen: OpenAI's keys, and those that this library adds."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from pygpukit.llm.llm import LLM
from pygpukit.llm.request import Constraint
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.errors import ApiError

__all__ = ["read_chat_logprobs", "read_choices", "read_format", "read_params", "spread_seeds"]

MOST_TOKENS = 2**31 - 1
MOST_CHOICES = 32
MOST_LOGPROBS = 20

IGNORED = (
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
"""Keys of OpenAI's API that don't change which tokens are chosen."""


def read_params(body: Body, defaults: SamplingParams) -> SamplingParams:
    """The parameters of a request; what it doesn't say is the model's own.

    Raises:
        ApiError: A value is out of its range.
        SamplingError: Likewise.
    """
    limits = [
        body.integer(key, minimum=1, maximum=MOST_TOKENS)
        for key in ("max_completion_tokens", "max_tokens")
    ]
    arguments: dict[str, Any] = {
        "max_new_tokens": next((limit for limit in limits if limit is not None), None),
        "temperature": body.number("temperature", minimum=0, maximum=100),
        "top_p": body.number("top_p", minimum=0, maximum=1),
        "top_k": body.integer("top_k", minimum=0, maximum=MOST_TOKENS),
        "min_p": body.number("min_p", minimum=0, maximum=1),
        "presence_penalty": body.number("presence_penalty", minimum=-2, maximum=2),
        "frequency_penalty": body.number("frequency_penalty", minimum=-2, maximum=2),
        "repetition_penalty": body.number("repetition_penalty", minimum=0.01, maximum=100),
        "stop": body.texts("stop") or None,
        "ignore_eos": body.flag("ignore_eos") or None,
        "min_new_tokens": body.integer("min_tokens", minimum=0, maximum=MOST_TOKENS),
        "logit_bias": _read_biases(body),
    }
    seed = body.integer("seed", minimum=-(2**63), maximum=2**63 - 1)
    arguments["seed"] = secrets.randbits(62) if seed is None else seed % 2**63
    return defaults.updated(arguments)


def _read_biases(body: Body) -> dict[int, float] | None:
    """What is added to logits, by their ids, which JSON has as texts."""
    biases = body.take("logit_bias")
    try:
        return None if biases is None else {int(id_): value for id_, value in biases.items()}
    except (AttributeError, ValueError):
        message = f"logit_bias: expected an object of ids and numbers, found {biases!r:.80}"
        raise ApiError(400, message, param="logit_bias") from None


def read_choices(body: Body) -> int:
    """How many answers are wanted."""
    return body.integer("n", minimum=1, maximum=MOST_CHOICES) or 1


def spread_seeds(params: SamplingParams, choices: int) -> list[SamplingParams]:
    """Parameters for each of several answers, which are drawn differently."""
    seeds = [(params.seed + choice) % 2**63 for choice in range(choices)]
    return [params.updated({"seed": seed}) for seed in seeds]


def read_chat_logprobs(body: Body) -> int | None:
    """How many log-probabilities beside the chosen token's a chat completion reports."""
    wanted = body.flag("logprobs")
    count = body.integer("top_logprobs", minimum=0, maximum=MOST_LOGPROBS)
    if count and not wanted:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    return (count or 0) if wanted else None


def read_format(body: Body, llm: LLM) -> Callable[[], Constraint] | None:
    """What makes the constraint of an output, if `response_format` asks for one.

    Beside OpenAI's `text`, `json_object` and `json_schema` there are `regex`, with a `pattern`, and
    `grammar`, with a `grammar` in Lark's notation.

    Raises:
        ApiError: A key is missing or unknown.
        GrammarError: The schema, expression or grammar isn't understood.
    """
    wanted = body.object("response_format")
    if wanted is None:
        return None
    make: Callable[[], Constraint] | None = None
    match wanted.text("type"):
        case "text":
            pass
        case "json_object":
            make = lambda: llm.grammars.json()  # noqa: E731
        case "json_schema":
            entry = wanted.object("json_schema")
            schema = None if entry is None else entry.take("schema")
            if not isinstance(schema, dict):
                raise _missing("json_schema", "an object with the schema")
            make = lambda: llm.grammars.json(schema)  # noqa: E731
        case "regex":
            pattern = wanted.text("pattern")
            if pattern is None:
                raise _missing("pattern", "a regular expression")
            make = lambda: llm.grammars.regex(pattern)  # noqa: E731
        case "grammar":
            grammar = wanted.text("grammar")
            if grammar is None:
                raise _missing("grammar", "a grammar in Lark's notation")
            make = lambda: llm.grammars.lark(grammar)  # noqa: E731
        case kind:
            expected = "text, json_object, json_schema, regex or grammar"
            raise _missing("type", f"{expected}, found {kind!r}")
    wanted.finish()
    return make


def _missing(key: str, expected: str) -> ApiError:
    return ApiError(400, f"response_format.{key}: expected {expected}", param="response_format")
