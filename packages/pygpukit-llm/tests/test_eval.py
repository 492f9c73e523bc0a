"""The adapter for lm-evaluation-harness, called as the harness calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pygpukit.llm import LLM, SamplingError

pytest.importorskip("lm_eval", reason="the extra: eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from pygpukit.llm.eval import PygpukitLM

CONTEXT = 24


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=index)
        for index, args in enumerate(arguments)
    ]


@pytest.fixture
def llm(scripted: Callable[..., LLM]) -> LLM:
    """Answers "lo there." after three bytes of anything; 256 begins a text and 257 ends one."""
    return scripted(
        "lo there.",
        prompt_length=3,
        context_length=CONTEXT,
        config={"bos_token_id": 256, "eos_token_id": 257},
    )


def test_it_is_registered(llm: LLM) -> None:
    assert get_model("pygpukit") is PygpukitLM


@pytest.mark.parametrize("name", ["model", "pretrained"])
def test_a_model_by_its_place(reference_models: Path, name: str) -> None:
    """As the harness's command line makes one."""
    arguments = {name: str(reference_models / "llama2"), "device": "cpu"}
    made = get_model("pygpukit").create_from_arg_obj(arguments, {"batch_size": 2})
    assert made.llm.config.architecture == "llama"
    with pytest.raises(TypeError, match="either model or pretrained"):
        get_model("pygpukit").create_from_arg_obj({"device": "cpu"})


def test_continuations(llm: LLM) -> None:
    found = PygpukitLM(llm).loglikelihood(
        requests("loglikelihood", ("hel", "lo"), ("hel", "xx"), ("", "hello"))
    )
    ids = [256, *b"hello"]
    assert found[0] == (pytest.approx(sum(llm.score("hello").logprobs[2:])), True)
    assert found[1] == (pytest.approx(sum(llm.score("helxx").logprobs[2:])), False)
    assert found[2] == (pytest.approx(llm.score(ids).total), False)


def test_a_context_that_is_too_long_loses_its_beginning(llm: LLM) -> None:
    (found,) = PygpukitLM(llm).loglikelihood(requests("loglikelihood", ("a" * 10, "b" * 15)))
    expected = llm.score("a" * 9 + "b" * 15).logprobs[-15:]
    assert found[0] == pytest.approx(sum(expected))


@pytest.mark.parametrize("length", [5, CONTEXT - 1, 60])
def test_whole_texts_in_windows(llm: LLM, length: int) -> None:
    text = "".join(chr(97 + index % 26) for index in range(length))
    (found,) = PygpukitLM(llm).loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    ids, total, size = [256, *text.encode()], 0.0, CONTEXT - 1
    for start in range(0, length, size):
        count = min(size, length - start)
        # Windows are as long as the context has room, the last one too.
        window = ids[max(0, start + count - size) : start + count + 1]
        total += sum(llm.score(window).logprobs[-count:])
    assert found == pytest.approx(total)


def test_answers(llm: LLM) -> None:
    lm = PygpukitLM(llm, batch_size=2)
    stop, none = {"until": ["."], "max_gen_toks": 12}, {"until": [], "max_gen_toks": 4}
    found = lm.generate_until(
        requests("generate_until", ("hel", stop), ("abc", none), ("xyz", stop), ("a" * 40, none))
    )
    assert found[:3] == ["lo there", "lo t", "lo there"]
    assert len(found) == 4
    with pytest.raises(SamplingError, match="unknown generation argument 'beams'"):
        lm.generate_until(requests("generate_until", ("hel", {"beams": 3})))


def test_conversations(scripted: Callable[..., LLM]) -> None:
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    llm = scripted("x", tokenizer_config={"chat_template": template})
    lm = PygpukitLM(llm)
    assert lm.apply_chat_template([{"role": "user", "content": "Hi"}]) == "user:Hi;"
    assert json.dumps(lm.tokenizer_name)
    assert np.isfinite(lm.loglikelihood(requests("loglikelihood", ("user:Hi;", "x")))[0][0])
