"""The server over real connections, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pygpukit.llm import LLM, PromptError
from pygpukit.llm.cache import PAGE_SIZE
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.hub import bundled_model

pytest.importorskip("uvicorn", reason="the extra: serve", exc_type=ImportError)
openai = pytest.importorskip("openai", reason="OpenAI's client", exc_type=ImportError)

import httpx2 as httpx  # noqa: E402  # which the client needs itself
from pygpukit.llm.serve import create_app  # noqa: E402
from serving import CHAT, client_of, served  # noqa: E402


@pytest.fixture
def hello(scripted: Callable[..., LLM]) -> LLM:
    """Answers a prompt of one token with "Hello world" and the end of the text."""
    return scripted(
        [*b"Hello world", 257],
        tokenizer_config={"chat_template": CHAT, "eos_token": "<|end|>"},
    )


def test_a_chat(hello: LLM) -> None:
    with served(hello) as address, client_of(address) as client:
        (model,) = client.models.list().data
        assert (model.id, client.models.retrieve("test").id) == ("test", "test")
        messages = [{"role": "user", "content": "x"}]
        answer = client.chat.completions.create(model="test", messages=messages)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", "Hello world")
        assert (choice.finish_reason, choice.logprobs) == ("stop", None)
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1, 12, 13)
        short = client.chat.completions.create(
            model="test", messages=messages, max_completion_tokens=3, stop=["zzz"]
        )
        assert short.choices[0].message.content == "Hel"
        assert short.choices[0].finish_reason == "length"
        stopped = client.chat.completions.create(model="test", messages=messages, stop="o w")
        assert stopped.choices[0].message.content == "Hell"


def test_a_streamed_chat(hello: LLM) -> None:
    with served(hello) as address, client_of(address) as client:
        stream = client.chat.completions.create(
            model="test",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
            n=2,
        )
        texts, reasons, pieces, usage = ["", ""], {}, 0, None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                pieces += bool(choice.delta.content)
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        assert texts == ["Hello world"] * 2
        assert reasons == {0: "stop", 1: "stop"}
        assert pieces >= 2
        assert (usage.prompt_tokens, usage.completion_tokens) == (1, 24)


def test_logprobs(hello: LLM) -> None:
    with served(hello) as address, client_of(address) as client:
        request = {
            "model": "test",
            "messages": [{"role": "user", "content": "x"}],
            "logprobs": True,
            "top_logprobs": 2,
        }
        answer = client.chat.completions.create(**request)
        content = answer.choices[0].logprobs.content
        assert "".join(entry.token for entry in content[:-1]) == "Hello world"
        assert all(entry.top_logprobs[0].token == entry.token for entry in content)
        assert content[0].logprob == content[0].top_logprobs[0].logprob < 0
        assert content[0].bytes == [ord("H")]
        streamed = []
        for chunk in client.chat.completions.create(**request, stream=True):
            for choice in chunk.choices:
                streamed += choice.logprobs.content if choice.logprobs else []
        assert streamed == content
        text = client.completions.create(model="test", prompt="x", logprobs=1, max_tokens=5)
        logprobs = text.choices[0].logprobs
        assert logprobs.tokens == list("Hello")
        assert logprobs.text_offset == [0, 1, 2, 3, 4]
        assert [*logprobs.top_logprobs[0]] == ["H"]


def test_completions(hello: LLM) -> None:
    with served(hello) as address, client_of(address) as client:
        answer = client.completions.create(
            model="test", prompt=["x", "y"], n=2, max_tokens=5, echo=True
        )
        assert [choice.text for choice in answer.choices] == [
            "xHello", "xHello", "yHello", "yHello",
        ]  # fmt: skip
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 20)
        stream = client.completions.create(model="test", prompt=[120], stream=True, max_tokens=50)
        chunks = [choice for chunk in stream for choice in chunk.choices]
        assert "".join(choice.text for choice in chunks) == "Hello world"
        assert chunks[-1].finish_reason == "stop"


def test_seeds_and_choices(reference_models: Path, byte_tokenizer, copied_model) -> None:
    folder = copied_model("llama2")
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    llm = LLM.from_pretrained(folder, device="cpu")
    with served(llm) as address, client_of(address) as client:

        def texts(**options: object) -> list[str]:
            answer = client.completions.create(
                model="test", prompt=[5, 6], temperature=1.5, max_tokens=12, **options
            )
            return [choice.text for choice in answer.choices]

        first = texts(seed=7, n=3)
        assert texts(seed=7, n=3) == first
        assert texts(seed=8) == first[1:2]
        assert len(set(first)) == 3
        assert texts() != texts()


def test_response_formats(scripted: Callable[..., LLM]) -> None:
    pytest.importorskip("llguidance", exc_type=ImportError)
    files = {"tokenizer_config": {"chat_template": CHAT, "eos_token": "<|end|>"}}
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    formats = [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        {"type": "regex", "pattern": "yes|no"},
        {"type": "grammar", "grammar": 'start: "yes" | "no"'},
        {"type": "text"},
    ]
    with served(scripted("", **files)) as address, client_of(address) as client:
        request = {"model": "test", "messages": [{"role": "user", "content": "x"}]}
        texts = [
            client.chat.completions.create(
                **request, temperature=1.0, max_tokens=60, response_format=format_
            )
            .choices[0]
            .message.content
            for format_ in formats
        ]
        assert isinstance(json.loads(texts[0])["ok"], bool)
        assert {texts[1], texts[2]} <= {"yes", "no"}
        with pytest.raises(openai.BadRequestError, match=r"response_format\.type: expected text"):
            client.chat.completions.create(**request, response_format={"type": "xml"})
        with pytest.raises(openai.BadRequestError, match="isn't understood"):
            client.chat.completions.create(
                **request, response_format={"type": "regex", "pattern": "("}
            )


def test_a_template_that_fails_does_not_tell_where_it_is(scripted: Callable[..., LLM]) -> None:
    template = "{{ messages[0].content + 1 }}"
    llm = scripted("x", tokenizer_config={"chat_template": template})
    body = {"messages": [{"role": "user", "content": "x"}]}
    with served(llm) as address:
        response = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("chat template: can only concatenate")


def test_emoji_come_through_escapes(hello: LLM) -> None:
    with served(hello) as address:
        content = b'{"prompt": "\\ud83d\\ude00"}'
        response = httpx.post(f"{address}/tokenize", content=content)
    assert response.json()["tokens"] == [*"😀".encode()]


def test_biases_and_a_least_length(hello: LLM) -> None:
    request = {"model": "test", "messages": [{"role": "user", "content": "x"}]}
    with served(hello) as address, client_of(address) as client:
        biased = client.chat.completions.create(
            **request, max_tokens=3, logit_bias={ord("e"): -100, ord("l"): -100, ord("x"): 5}
        )
        assert biased.choices[0].message.content == "Hxx"
        answer = client.chat.completions.create(
            **request, max_tokens=20, temperature=0, extra_body={"min_tokens": 15}
        )
        assert answer.usage.completion_tokens >= 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_bias": [1]}, "logit_bias: expected an object of ids and numbers, found"),
        ({"logit_bias": {"a": 1}}, "logit_bias: expected an object of ids and numbers, found"),
        ({"logit_bias": {"999": 1}}, "logit_bias: the model has ids below 260, got 999"),
        ({"temperature": "hot"}, "temperature: expected a number, found 'hot'"),
        ({"temperature": -1}, "temperature: expected a number from 0 to 100, found -1"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number from 1"),
        ({"n": True}, "n: expected a whole number, found True"),
        ({"best_of": 3}, "best_of: isn't supported; leave it out"),
        ({"messages": "x"}, "messages: expected a list of objects, found 'x'"),
        ({"messages": [{"content": "x"}]}, "with a 'role'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: expected a text or a list"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a pair of surrogates"),
        ({"n": 32}, "n: 32 answers at once are more than may wait, 20; ask for fewer"),
        ({"messages": [{"role": "user", "content": "x" * 65}]}, "more than the model's context"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"stop": [""]}, "stop: expected a text or a list of texts"),
    ],
)
def test_what_is_wrong_is_named(hello: LLM, changes: dict[str, object], message: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **changes}
    with served(hello, EngineConfig(pages=64, max_waiting=20)) as address:
        response = httpx.post(f"{address}/v1/chat/completions", content=json.dumps(body))
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_other_refusals(hello: LLM) -> None:
    with served(hello, api_keys=["first", "second"], max_body=200) as address:
        with pytest.raises(openai.AuthenticationError, match="an API key is needed"):
            client_of(address, "third").models.list()
        with client_of(address, "second") as client:
            assert client.models.list().data
            with pytest.raises(openai.NotFoundError, match="no 'other', only 'test'"):
                client.completions.create(model="other", prompt="x")
            with pytest.raises(openai.APIStatusError, match="larger than 200 bytes") as caught:
                client.completions.create(model="test", prompt="x" * 300)
            assert caught.value.status_code == 413
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        for response, status in [
            (httpx.get(f"{address}/v1/engines"), 404),
            (httpx.get(f"{address}/v1/completions"), 405),
        ]:
            assert response.status_code == status
            assert response.json()["error"]["type"] == "invalid_request_error"
        response = httpx.post(
            f"{address}/v1/completions", content=b"{", headers={"Authorization": "Bearer first"}
        )
        assert (response.status_code, "no JSON" in response.text) == (400, True)


def test_tokens_page_and_metrics(hello: LLM) -> None:
    with served(hello) as address:
        found = httpx.post(f"{address}/tokenize", json={"prompt": "Hi"}).json()
        assert found == {"tokens": [72, 105], "count": 2, "max_model_len": 64}
        messages = [{"role": "user", "content": "Hi"}]
        chat = httpx.post(f"{address}/tokenize", json={"messages": messages}).json()
        assert chat["tokens"] == [72, 105]
        text = httpx.post(f"{address}/detokenize", json={"tokens": [72, 105]}).json()
        assert text == {"prompt": "Hi"}
        wrong = httpx.post(f"{address}/detokenize", json={"tokens": "Hi"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "tokens")
        assert "<title>pygpukit</title>" in httpx.get(address).text
        httpx.post(f"{address}/v1/completions", json={"prompt": "x", "max_tokens": 4})
        metrics = httpx.get(f"{address}/metrics").text
    assert 'pygpukit_output_tokens_total{model="test"} 4.0' in metrics
    assert 'pygpukit_responses_total{path="/v1/completions",status="200"} 1.0' in metrics
    assert 'pygpukit_time_to_first_token_seconds_count{model="test"} 1.0' in metrics
    assert 'pygpukit_pages{model="test"} 64.0' in metrics
    assert 'pygpukit_pages_in_use{model="test"} 0.0' in metrics


@pytest.fixture
def endless(scripted: Callable[..., LLM]) -> LLM:
    """Never ends by itself; slow enough to look at."""
    return scripted("ab" * 400, context_length=1000, prompt_length=1)


def test_a_client_that_goes_away_ends_its_request(endless: LLM) -> None:
    scheduler_stats = lambda: endless.engine.scheduler.stats()  # noqa: E731
    with served(endless) as address, client_of(address) as client:
        stream = client.completions.create(model="test", prompt="x", stream=True, max_tokens=990)
        next(iter(stream))
        assert scheduler_stats().running == 1
        stream.close()
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model="test", prompt="x", max_tokens=990, timeout=0.2)
        for _ in range(100):
            if scheduler_stats().requests == 0:
                break
            time.sleep(0.02)
        assert (scheduler_stats().requests, scheduler_stats().pages_in_use) == (0, 0)
        assert 'pygpukit_cancelled_total{model="test"} 2.0' in httpx.get(f"{address}/metrics").text


def test_without_a_limit_an_answer_is_as_long_as_the_pages_allow(
    scripted: Callable[..., LLM],
) -> None:
    llm = scripted("a" * 300, context_length=300, tokenizer_config={"chat_template": CHAT})
    request = {"model": "test", "messages": [{"role": "user", "content": "x"}]}
    with served(llm, EngineConfig(pages=2)) as address, client_of(address) as client:
        answer = client.chat.completions.create(**request)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens == 2 * PAGE_SIZE + 1
        with pytest.raises(openai.BadRequestError, match="page quota"):
            client.chat.completions.create(**request, max_tokens=200)


def test_metrics_show_the_scheduler_that_runs(
    endless: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"model": "test", "prompt": "x", "max_tokens": 4}
    with served(endless) as address:
        with monkeypatch.context() as broken:
            broken.setattr(endless.engine._runner, "decode", None)
            failed = httpx.post(f"{address}/v1/completions", json=request)
            assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert httpx.post(f"{address}/v1/completions", json=request).status_code == 200
        computed = endless.engine.scheduler.stats().computed_tokens
        assert computed > 0
        metrics = httpx.get(f"{address}/metrics").text
        assert f'pygpukit_computed_tokens_total{{model="test"}} {computed}.0' in metrics


def test_several_models(scripted: Callable[..., LLM]) -> None:
    files = {"tokenizer_config": {"chat_template": CHAT, "eos_token": "<|end|>"}}
    models = {
        "short": scripted([*b"short", 257], **files),
        "owner/long": scripted("long" * 50, context_length=256, **files),
    }
    with served(models) as address, client_of(address) as client:
        assert [model.id for model in client.models.list().data] == ["short", "owner/long"]
        assert client.models.retrieve("owner/long").id == "owner/long"
        messages = [{"role": "user", "content": "x"}]
        long = client.completions.create(
            model="owner/long", prompt="x", stream=True, max_tokens=200
        )
        text = next(iter(long)).choices[0].text
        answer = client.chat.completions.create(model="short", messages=messages)
        assert (answer.model, answer.choices[0].message.content) == ("short", "short")
        assert text + "".join(chunk.choices[0].text for chunk in long) == "long" * 50
        with pytest.raises(openai.NotFoundError, match="no 'x', only 'short', 'owner/long'") as no:
            client.completions.create(model="x", prompt="x")
        assert no.value.code == "model_not_found"
        unnamed = httpx.post(f"{address}/v1/completions", json={"prompt": "x"})
        assert unnamed.status_code == 400
        assert "expected one of 'short', 'owner/long'" in unnamed.json()["error"]["message"]
        found = httpx.post(f"{address}/tokenize", json={"model": "owner/long", "prompt": "x"})
        assert found.json()["max_model_len"] == 256
        metrics = httpx.get(f"{address}/metrics").text
    for name, tokens in {"short": 6, "owner/long": 200}.items():
        assert f'pygpukit_output_tokens_total{{model="{name}"}} {tokens}.0' in metrics
        assert f'pygpukit_pages_in_use{{model="{name}"}} 0.0' in metrics


def test_what_an_app_needs(hello: LLM, logits_model: Callable[..., Path]) -> None:
    mute = LLM.from_pretrained(logits_model([[0.0] * 260] * 8), device="cpu")
    with pytest.raises(ValueError, match="expected one, or a device they share; found 2"):
        create_app({"one": hello, "other": hello})
    with pytest.raises(PromptError, match="the model 'mute' has no tokenizer"):
        create_app({"mute": mute})


def test_overload_and_time_limit(endless: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Engine.advance

    def advance_slowly(engine: Engine) -> None:
        time.sleep(0.001)  # so that nothing ends before its time
        advance(engine)

    monkeypatch.setattr(Engine, "advance", advance_slowly)
    config = EngineConfig(pages=64, step_tokens=64, max_running=1, max_waiting=1)
    with served(endless, config, time_limit=0.5) as address, client_of(address) as client:
        create = lambda: client.completions.create(  # noqa: E731
            model="test", prompt="x", stream=True, max_tokens=990
        )
        running = create()
        next(iter(running))
        late: list[str] = []

        def wait() -> None:
            with pytest.raises(openai.APIError) as caught:
                list(create())
            late.append(str(caught.value))

        waiting = threading.Thread(target=wait)
        waiting.start()
        while endless.engine.scheduler.stats().waiting == 0:
            assert waiting.is_alive(), "it waits behind the one that runs"
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            create()
        assert int(caught.value.response.headers["Retry-After"]) > 0
        assert caught.value.type == "rate_limit_error"
        with pytest.raises(openai.APIError, match="deadline has passed"):
            for _ in running:
                pass
        waiting.join()
        assert "deadline has passed" in late[0]


def test_many_clients_some_of_which_vanish(reference_models: Path, byte_tokenizer, copied_model):
    """No error, no leak, no mixed text."""
    folder = copied_model("llama2")
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    llm = LLM.from_pretrained(folder, device="cpu")
    prompts = [[5, 6 + index] for index in range(12)]
    options = {"max_new_tokens": 40, "temperature": 1.0, "ignore_eos": True}
    expected = [llm.generate(ids, seed=seed, **options).text for seed, ids in enumerate(prompts)]
    engine = EngineConfig(pages=16, step_tokens=32, max_running=16)

    async def one(client: openai.AsyncOpenAI, index: int, rng: random.Random) -> None:
        seed = index % len(prompts)
        stream = await client.completions.create(
            model="test",
            prompt=prompts[seed],
            seed=seed,
            temperature=1.0,
            max_tokens=40,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        text, leaves = "", rng.random() < 0.4
        async for chunk in stream:
            text += chunk.choices[0].text
            if leaves and rng.random() < 0.1:
                await stream.close()
                assert expected[seed].startswith(text)
                return
        assert text == expected[seed]

    async def load(address: str) -> None:
        rng = random.Random(3)
        async with openai.AsyncOpenAI(
            base_url=f"{address}/v1", api_key="none", max_retries=0
        ) as client:
            await asyncio.gather(*(one(client, index, rng) for index in range(100)))

    with served(llm, engine) as address:
        asyncio.run(load(address))
        for _ in range(100):
            if llm.engine.scheduler.stats().requests == 0:
                break
            time.sleep(0.02)
        stats = llm.engine.scheduler.stats()
        assert (stats.requests, stats.pages_in_use) == (0, 0)


def test_ending_the_server_ends_what_is_under_way(endless: LLM) -> None:
    with served(endless) as address, client_of(address) as client:
        stream = client.completions.create(model="test", prompt="x", stream=True, max_tokens=990)
        next(iter(stream))
        before = time.monotonic()
        stream.close()
    assert time.monotonic() - before < 10
    assert not endless.engine.busy


@pytest.mark.skipif(sys.platform == "win32", reason="ends it by a signal")
def test_the_command(logits_model: Callable[..., Path], byte_tokenizer) -> None:
    other = logits_model([[0.0] * 260] * 8, tokenizer=byte_tokenizer())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-I", "-m", "pygpukit.llm.cli", "serve", "--device", "cpu"]
    command += [f"small={bundled_model()}", f"other={other}", "--dtype", "float32"]
    command += ["--port", str(port), "--cache-memory", "0.1", "--api-key", "k"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        with client_of(f"http://127.0.0.1:{port}", "k") as client:
            for _ in range(300):
                assert process.poll() is None, process.stdout.read().decode()
                try:
                    names = [model.id for model in client.models.list().data]
                    break
                except openai.APIConnectionError:
                    time.sleep(0.1)
            assert names == ["small", "other"]
            messages = [{"role": "user", "content": "What is the capital of France?"}]
            answer = client.chat.completions.create(
                model="small", messages=messages, temperature=0, max_tokens=24
            )
            assert "Paris" in answer.choices[0].message.content
            stream = client.chat.completions.create(
                model="small", messages=messages, temperature=0, max_tokens=24, stream=True
            )
            pieces = [next(iter(stream))]
            process.send_signal(signal.SIGTERM)
            pieces += list(stream)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
            assert text == answer.choices[0].message.content, "it ends what is under way"
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()
