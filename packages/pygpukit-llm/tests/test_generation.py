"""What comes out of generate and stream: text, ids, where and why they end."""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device
from pygpukit.llm import LLM, LogitsError, PromptError, SamplingError

END = 256 + 1
TURN_END = 256 + 3
REPLACEMENT = "\ufffd"


def test_text_ids_reason_and_usage(scripted: Callable[..., LLM]) -> None:
    llm = scripted([*b"Hi!", END, *b"never"], prompt_length=2, config={"eos_token_id": END})
    generation = llm.generate("ab", max_new_tokens=10)
    assert generation.text == "Hi!"
    assert list(generation) == [*b"Hi!", END]
    assert generation.finish_reason == "stop"
    assert generation.usage == (2, 4)
    assert generation.logprobs is None
    assert generation[0] == ord("H")
    assert generation[1:3] == tuple(b"i!")


def test_max_new_tokens(scripted: Callable[..., LLM]) -> None:
    generation = scripted("Hello").generate("a", max_new_tokens=2)
    assert (generation.text, generation.finish_reason) == ("He", "length")


def test_end_of_the_context(scripted: Callable[..., LLM]) -> None:
    llm = scripted("x" * 8, context_length=8)
    generation = llm.generate("abc")
    assert (len(generation), generation.finish_reason) == (5, "length")
    full = llm.generate("abcdefgh", logprobs=1)
    assert (list(full), full.text, full.finish_reason, full.logprobs) == ([], "", "length", ())


def test_a_long_output_grows_the_cache(scripted: Callable[..., LLM]) -> None:
    script = [97 + position % 26 for position in range(599)]
    generation = scripted(script, context_length=600).generate("a")
    assert list(generation) == script


def test_end_ids_of_every_file_count(scripted: Callable[..., LLM]) -> None:
    files = {
        "config": {"eos_token_id": [10]},
        "generation_config": {"eos_token_id": [11, 12]},
        "tokenizer_config": {
            "eos_token": {"content": "<|end|>"},
            "chat_template": "{{ messages[0].content }}<|im_end|>",
        },
    }
    for end in (10, 11, 12, END, TURN_END):
        llm = scripted([*b"Hi", end, *b"more"], **files)
        assert llm.generate("a").text == "Hi"
        generation = llm.generate("a", ignore_eos=True, max_new_tokens=7)
        assert list(generation) == [*b"Hi", end, *b"more"]


def test_stop_token_ids_hold_even_where_eos_is_ignored(scripted: Callable[..., LLM]) -> None:
    llm = scripted("a.b", config={"eos_token_id": ord("a")})
    generation = llm.generate("x", stop_token_ids=[ord(".")], ignore_eos=True)
    assert (generation.text, list(generation)) == ("a", [*b"a."])
    assert generation.finish_reason == "stop"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("END", "one EN two "),
        (["zzz", " two"], "one EN"),
        ("o", ""),
        (["wo", "two"], "one EN "),
        ("absent", "one EN two END three"),
    ],
)
def test_stop_strings(scripted: Callable[..., LLM], stop: str | list[str], text: str) -> None:
    llm = scripted("one EN two END three")
    generation = llm.generate("x", stop=stop, max_new_tokens=20)
    assert generation.text == text
    assert generation.finish_reason == ("length" if stop == "absent" else "stop")
    stream = llm.stream("x", stop=stop, max_new_tokens=20)
    assert "".join(stream) == text
    assert stream.generation == generation


def test_a_stop_string_never_shows_in_a_stream(scripted: Callable[..., LLM]) -> None:
    pieces = list(scripted("say EN, then END").stream("x", stop="END", max_new_tokens=16))
    assert "".join(pieces) == "say EN, then "
    assert " EN" not in pieces
    assert "EN," in pieces  # held back until the comma


@pytest.mark.parametrize("text", ["naïve", "日本語", "🦙🦙", "e\u0301", "👨‍👩‍👧"])
def test_characters_of_several_tokens(scripted: Callable[..., LLM], text: str) -> None:
    length = len(text.encode())
    pieces = list(scripted(text).stream("x", max_new_tokens=length))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


def test_an_unfinished_character_shows_at_the_end(scripted: Callable[..., LLM]) -> None:
    stream = scripted("a🦙").stream("x", max_new_tokens=3)
    assert list(stream) == ["a", REPLACEMENT]
    assert stream.generation.text == "a" + REPLACEMENT


def test_a_stream_left_early(scripted: Callable[..., LLM]) -> None:
    llm = scripted("Hello world")
    in_use = llm.device.pool.stats().in_use
    stream = llm.stream("x", max_new_tokens=11)
    assert [next(stream), next(stream)] == ["H", "e"]
    assert llm.device.pool.stats().in_use > in_use
    stream.close()
    assert llm.device.pool.stats().in_use == in_use
    assert list(stream) == []
    assert stream.generation.text == "He"
    assert llm.generate("x", max_new_tokens=11).text == "Hello world"


def test_two_streams_at_the_same_time(scripted: Callable[..., LLM]) -> None:
    llm = scripted("Hello world")
    streams = [llm.stream("x", max_new_tokens=11), llm.stream("y", max_new_tokens=11)]
    pieces = list(zip(*streams, strict=True))
    assert "".join(first for first, _ in pieces) == "Hello world"
    assert "".join(second for _, second in pieces) == "Hello world"


def test_ctrl_c_stops_and_the_model_stays_usable(reference_models: Path) -> None:
    llm = LLM.from_pretrained(reference_models / "llama2", device="cpu")
    expected = llm.generate([1, 2, 3], max_new_tokens=8)
    gc.collect()  # other tests' models
    in_use = llm.device.pool.stats().in_use

    def generate_for_ever() -> None:
        while True:
            llm.generate([[1, 2, 3]] * 8, max_new_tokens=200, ignore_eos=True)

    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        generate_for_ever()
    timer.join()
    assert llm.device.pool.stats().in_use == in_use
    assert llm.generate([1, 2, 3], max_new_tokens=8) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_no_number(
    logits_model: Callable[..., Path], bad: float, temperature: float
) -> None:
    logits = np.zeros((8, 16))
    llm = LLM.from_pretrained(logits_model(logits), device="cpu")
    assert len(llm.generate([1], max_new_tokens=4, temperature=temperature)) == 4
    logits[5, 3] = bad
    broken = LLM.from_pretrained(logits_model(logits), device="cpu")
    with pytest.raises(LogitsError, match="NaN or infinite"):
        broken.generate([1], temperature=temperature)


def test_a_stop_string_needs_a_tokenizer(reference_models: Path) -> None:
    llm = LLM.from_pretrained(reference_models / "llama2", device="cpu")
    with pytest.raises(SamplingError, match="stop needs a tokenizer"):
        llm.generate([1], stop="x")
    with pytest.raises(PromptError, match="no tokenizer to stream"):
        llm.stream([1])


def test_the_device_and_the_config_show(reference_models: Path) -> None:
    llm = LLM.from_pretrained(reference_models / "llama2", device="cpu")
    assert llm.device == Device("cpu")
    assert (llm.config.architecture, llm.config.num_layers) == ("llama", 3)
