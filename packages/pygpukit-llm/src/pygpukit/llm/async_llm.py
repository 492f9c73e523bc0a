"""`AsyncLLM`: an `LLM` for coroutines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Unpack

from pygpukit.llm.chat import Message
from pygpukit.llm.driver import Driver
from pygpukit.llm.generation import Generation
from pygpukit.llm.llm import LLM, GenerationOptions
from pygpukit.llm.output import Output
from pygpukit.llm.prompts import Prompt

__all__ = ["AsyncLLM"]


class AsyncLLM:
    """An `LLM` for coroutines, any number at once: `async with AsyncLLM(llm) as model`.

    A thread runs the steps, for all of them together. A coroutine that is cancelled, or leaves a
    stream early, ends its request.

    Args:
        llm: The model. Threads may go on using it.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._engine = llm.engine
        self._driver = Driver(self._engine)

    async def __aenter__(self) -> AsyncLLM:
        """Starts the thread."""
        await self._driver.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Ends what is under way, and the thread."""
        await self._driver.__aexit__(*exception)

    async def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Generation:
        """Continues a prompt; arguments and errors as for `LLM.generate`."""
        return await self._generate(self._llm.encode(prompt), options)

    def stream(
        self, prompt: Prompt, **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[str, None]:
        """Continues a prompt, giving the text as it comes; arguments as for `LLM.stream`."""
        return self._stream(self._llm.encode(prompt), options)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """The model's answer to a conversation; arguments and errors as for `LLM.chat`."""
        ids = self._llm.encode_chat(
            messages, tools=tools, documents=documents, template_options=template_options
        )
        return await self._generate(ids, options)

    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncGenerator[str, None]:
        """The model's answer to a conversation, as it comes; arguments as for `LLM.chat`."""
        ids = self._llm.encode_chat(
            messages, tools=tools, documents=documents, template_options=template_options
        )
        return self._stream(ids, options)

    async def _generate(self, ids: Sequence[int], options: GenerationOptions) -> Generation:
        output = self._llm.prepare(ids, self._llm.defaults.updated(options))
        async with aclosing(self._driver.run(self._engine, [output])) as steps:
            async for _ in steps:
                pass
        return output.result()

    def _stream(self, ids: Sequence[int], options: GenerationOptions) -> AsyncGenerator[str, None]:
        return self._pieces(self._llm.prepare_stream(ids, self._llm.defaults.updated(options)))

    async def _pieces(self, output: Output) -> AsyncGenerator[str, None]:
        async with aclosing(self._driver.run(self._engine, [output])) as steps:
            async for _ in steps:
                if text := output.take().text:
                    yield text
