"""Outputs that follow a grammar, of a model to which all tokens are alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from pygpukit.llm import LLM, GrammarError, SamplingParams
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.grammar import Constraint
from pygpukit.llm.output import Output

pytest.importorskip("llguidance", reason="the extra: serve", exc_type=ImportError)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["a", "b"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "kind", "count"],
    "additionalProperties": False,
}


@pytest.fixture
def llm(scripted: Callable[..., LLM]) -> LLM:
    return scripted("", context_length=256, tokenizer_config={"eos_token": "<|end|>"})


def prepared(llm: LLM, seed: int, constraint: Constraint | None, **options: object) -> Output:
    params = SamplingParams(temperature=1.0, seed=seed, max_new_tokens=200, **options)
    output = llm.prepare([120], params)
    if constraint is not None:
        output.constrain(constraint)
    return output


def run(engine: Engine, *outputs: Output) -> list[str]:
    for _ in engine.run([output.request for output in outputs]):
        pass
    return [output.result().text for output in outputs]


def test_json_of_a_schema(llm: LLM) -> None:
    outputs = [prepared(llm, seed, llm.grammars.json(SCHEMA)) for seed in range(6)]
    for output, text in zip(outputs, run(llm.engine, *outputs), strict=True):
        assert output.result().finish_reason == "stop"
        value = json.loads(text)
        assert set(value) == {"name", "kind", "count"}
        assert len(value["name"]) <= 5
        assert value["kind"] in ("a", "b")
        assert 0 <= value["count"] <= 99


def test_a_mask_that_stays_is_the_same_object(llm: LLM) -> None:
    constraint = llm.grammars.regex("[ab]{3}c")
    biases = []
    for id_ in b"aba":
        biases.append(constraint.bias())
        constraint.take(id_)
    assert biases[0] is biases[1] is biases[2]
    changed = constraint.bias()
    assert changed != biases[0]
    assert memoryview(changed).cast("f")[ord("c")] == 0


def test_a_regular_expression_and_a_grammar(llm: LLM) -> None:
    (date,) = run(llm.engine, prepared(llm, 1, llm.grammars.regex(r"[0-9]{4}-[01][0-9]")))
    assert re.fullmatch(r"[0-9]{4}-[01][0-9]", date)
    lark = llm.grammars.lark('start: "x" ("+" "x"){2,4}')
    (sum_,) = run(llm.engine, prepared(llm, 2, lark))
    assert re.fullmatch(r"x(\+x){2,4}", sum_)


def test_characters_of_several_tokens(llm: LLM) -> None:
    (text,) = run(llm.engine, prepared(llm, 1, llm.grammars.regex("(é|🦙){4}")))
    assert re.fullmatch("[é🦙]{4}", text)


@pytest.mark.parametrize("config", [EngineConfig(), EngineConfig(steps_under_way=2, pages=5)])
def test_others_beside_it_are_as_they_are_alone(llm: LLM, config: EngineConfig) -> None:
    llm.configure(config)

    def outputs() -> list[Output]:
        return [
            prepared(llm, 1, llm.grammars.json(SCHEMA), logprobs=2),
            prepared(llm, 2, None, logprobs=2, repetition_penalty=1.2),
            prepared(llm, 3, llm.grammars.regex("[ab]{50,90}"), frequency_penalty=0.1),
        ]

    together = outputs()
    run(llm.engine, *together)
    for output, again in zip(together, outputs(), strict=True):
        run(llm.engine, again)
        assert output.result() == again.result()
    free = together[1].result()
    assert len(free) > 1


def test_what_is_not_understood(llm: LLM) -> None:
    with pytest.raises(GrammarError, match="isn't understood"):
        llm.grammars.json({"type": "nothing"})
    with pytest.raises(GrammarError, match="isn't understood"):
        llm.grammars.regex("(")
    with pytest.raises(GrammarError, match="isn't understood"):
        llm.grammars.lark("start: nothing")


def test_a_model_without_an_end(scripted: Callable[..., LLM]) -> None:
    with pytest.raises(GrammarError, match="no token that ends the output"):
        _ = scripted("").grammars
