"""The same model for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from pygpukit.llm import (
    LLM,
    AsyncLLM,
    ContextLengthError,
    LogitsError,
    PromptError,
    RequestCancelledError,
)

TEMPLATE = {"chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}"}


def test_many_coroutines_get_what_they_get_alone(reference_models: Path) -> None:
    llm = LLM.from_pretrained(reference_models / "llama2", device="cpu")
    prompts = [[5, 9 + index] for index in range(20)]
    options = {"max_new_tokens": 20, "temperature": 1.0, "logprobs": 1}
    expected = [llm.generate(ids, seed=seed, **options) for seed, ids in enumerate(prompts)]

    async def main() -> list[object]:
        async with AsyncLLM(llm) as model:
            return await asyncio.gather(
                *(model.generate(ids, seed=seed, **options) for seed, ids in enumerate(prompts))
            )

    assert asyncio.run(main()) == expected
    assert not llm.engine.busy


def test_streams_and_chats(scripted: Callable[..., LLM]) -> None:
    llm = scripted("Hello world", tokenizer_config=TEMPLATE)
    messages = [{"role": "user", "content": "x"}]

    async def main() -> None:
        async with AsyncLLM(llm) as model:
            pieces = [piece async for piece in model.stream("x", max_new_tokens=11)]
            assert "".join(pieces) == "Hello world"
            assert all(pieces)
            assert (await model.chat(messages, max_new_tokens=5)).text == "Hello"
            chat = [piece async for piece in model.chat_stream(messages, max_new_tokens=5)]
            assert "".join(chat) == "Hello"
            whole = await model.generate("x" * 64)
            assert (len(whole), whole.finish_reason) == (0, "length")

    asyncio.run(main())


def test_who_leaves_or_is_cancelled_ends_the_request(scripted: Callable[..., LLM]) -> None:
    llm = scripted("ab" * 400, context_length=1000)

    async def main() -> None:
        async with AsyncLLM(llm) as model:
            async with aclosing(model.stream("x", max_new_tokens=900)) as stream:
                assert (await anext(stream))[0] == "a"
                assert llm.engine.busy
            assert not llm.engine.busy
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(model.generate("x", max_new_tokens=900), 0.05)
            assert not llm.engine.busy
            task = asyncio.ensure_future(model.generate("x", max_new_tokens=900))
            await asyncio.sleep(0.05)
        with pytest.raises(RequestCancelledError, match="is closing"):
            await task

    asyncio.run(main())
    assert not any(thread.name == "pygpukit-engine" for thread in threading.enumerate())


def test_errors_reach_who_asked(
    logits_model: Callable[..., Path], scripted: Callable[..., LLM]
) -> None:
    import numpy as np

    broken = LLM.from_pretrained(logits_model(np.full((8, 16), np.nan)), device="cpu")

    async def main() -> None:
        async with AsyncLLM(broken) as model:
            with pytest.raises(LogitsError):
                await model.generate([1])
            with pytest.raises(PromptError, match="no tokenizer"):
                model.stream([1])
            with pytest.raises(ContextLengthError):
                await model.generate([1] * 9)

    asyncio.run(main())
