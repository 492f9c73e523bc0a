"""From a request's body to its answer, whole or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from pygpukit.llm.driver import Driver
from pygpukit.llm.engine import Engine
from pygpukit.llm.errors import PromptError
from pygpukit.llm.llm import LLM
from pygpukit.llm.output import News, Output
from pygpukit.llm.prompts import Prompt, is_batch
from pygpukit.llm.request import Constraint
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.serve.answers import Answers, ChatAnswers, TextAnswers, event
from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.errors import ApiError, as_api_error
from pygpukit.llm.serve.messages import read_messages
from pygpukit.llm.serve.metrics import ModelMetrics, Timer
from pygpukit.llm.serve.options import (
    IGNORED,
    MOST_LOGPROBS,
    read_chat_logprobs,
    read_choices,
    read_format,
    read_params,
    spread_seeds,
)
from pygpukit.llm.serve.tools import read_tools, shown_ids
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

__all__ = ["Completions", "Job"]

Json: TypeAlias = dict[str, Any]
_T = TypeVar("_T")


class Completions:
    """Reads requests of one client.

    Args:
        llm: The model.
        metrics: What is counted.
        model: What the model is called.
        tenant: Whose the requests are.
        deadline: When the answer must be complete, in seconds of `time.monotonic`.
    """

    def __init__(
        self, llm: LLM, metrics: ModelMetrics, model: str, tenant: int, deadline: float | None
    ) -> None:
        if llm.tokenizer is None:
            raise PromptError("the model has no tokenizer, which a server needs")
        self._llm = llm
        self._tokenizer = llm.tokenizer
        self._metrics = metrics
        self._model = model
        self._tenant = tenant
        self._deadline = deadline

    def chat(self, body: Body) -> Job:
        """A request to /v1/chat/completions."""
        messages = read_messages(body)
        tools = read_tools(body, self._llm)
        options = body.take("chat_template_kwargs") or {}
        choices, stream = read_choices(body), _Streaming(body)
        priority = body.integer("priority", minimum=-100, maximum=100) or 0
        params = read_params(body, self._llm.defaults)
        params = params.updated({"logprobs": read_chat_logprobs(body)})
        constraint = read_format(body, self._llm)
        if constraint is not None and tools.constraint is not None:
            message = "response_format can't be combined with calls that tool_choice requires"
            raise ApiError(400, message, param="response_format")
        body.ignore(*IGNORED)
        body.finish()
        ids = self._llm.encode_chat(messages, tools=tools.schemas, template_options=options)
        shown = {} if tools.schemas is None else shown_ids(self._tokenizer)
        outputs = self._outputs(
            [ids],
            spread_seeds(params, choices),
            priority,
            constraint or tools.constraint,
            shown,
        )
        answers = ChatAnswers(self._model, self._tokenizer, choices, tools)
        return Job(self._llm.engine, outputs, answers, stream, self._metrics)

    def text(self, body: Body) -> Job:
        """A request to /v1/completions."""
        prompts = _read_prompts(body.take("prompt"))
        choices, stream, echo = read_choices(body), _Streaming(body), body.flag("echo")
        priority = body.integer("priority", minimum=-100, maximum=100) or 0
        params = read_params(body, self._llm.defaults)
        if params.max_new_tokens is None:
            params = params.updated({"max_new_tokens": 16})  # OpenAI's default
        logprobs = body.integer("logprobs", minimum=0, maximum=MOST_LOGPROBS)
        params = params.updated({"logprobs": logprobs})
        constraint = read_format(body, self._llm)
        body.ignore(*IGNORED)
        body.finish()
        encoded = [self._llm.encode(prompt) for prompt in prompts]
        outputs = self._outputs(encoded, spread_seeds(params, choices), priority, constraint)
        texts = [
            prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
            for prompt in prompts
            for _ in range(choices)
        ]
        echoes = texts if echo else [""] * len(texts)
        answers = TextAnswers(self._model, self._tokenizer, choices, echoes)
        return Job(self._llm.engine, outputs, answers, stream, self._metrics)

    def _outputs(
        self,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        priority: int,
        constraint: Callable[[], Constraint] | None,
        shown: Mapping[int, str] = MappingProxyType({}),
    ) -> list[Output]:
        count, most = len(prompts) * len(params), self._llm.engine.config.max_waiting
        if count > most:
            message = f"n: {count} answers at once are more than may wait, {most}; ask for fewer"
            raise ApiError(400, message, param="n")
        outputs = []
        for ids in prompts:
            self._metrics.prompt_tokens.inc(len(ids))
            for entry in params:
                output = self._llm.prepare(ids, entry, shown)
                output.request.tenant = self._tenant
                output.request.priority = priority
                output.request.deadline = self._deadline
                if constraint is not None:
                    output.constrain(constraint())
                outputs.append(output)
        return outputs


class _Streaming:
    """Whether, and how, the answer is streamed."""

    def __init__(self, body: Body) -> None:
        self.wanted = body.flag("stream")
        options = body.object("stream_options")
        self.with_usage = options is not None and options.flag("include_usage")
        if options is not None:
            options.ignore("include_obfuscation")
            options.finish()


class Job:
    """One request, ready to run.

    Args:
        engine: The model's.
        outputs: One for each choice.
        answers: What they become.
        streaming: How it is sent.
        metrics: What is counted.
    """

    def __init__(
        self,
        engine: Engine,
        outputs: list[Output],
        answers: Answers,
        streaming: _Streaming,
        metrics: ModelMetrics,
    ) -> None:
        self._engine = engine
        self._outputs = outputs
        self._answers = answers
        self._streaming = streaming
        self._metrics = metrics
        self._timers = [Timer(metrics) for _ in outputs]

    async def respond(self, driver: Driver, request: Request) -> Response:
        """Runs the request and answers it; a client that goes away ends it."""
        if not self._streaming.wanted:
            return await self._unless_disconnected(self._whole(driver), request)
        events = self._events(driver)
        # Whatever is refused is refused before the stream begins.
        first = await self._unless_disconnected(anext(events), request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            self._chained(first, events), media_type="text/event-stream", headers=headers
        )

    async def _unless_disconnected(self, work: Awaitable[_T], request: Request) -> _T:
        """What `work` gives; it is cancelled when the client goes away."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._metrics.cancelled.inc()
                raise ApiError(499, "the client has gone away")
            return task.result()
        finally:
            for future in (task, gone):
                future.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _chained(
        self, first: str, events: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        try:
            yield first
            async for piece in events:
                yield piece
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.cancelled.inc()
            raise
        finally:
            await events.aclose()

    async def _whole(self, driver: Driver) -> Response:
        async with aclosing(driver.run(self._engine, self._outputs)) as steps:
            async for _ in steps:
                for choice in range(len(self._outputs)):
                    self._take(choice)
        return JSONResponse(self._answers.whole([output.result() for output in self._outputs]))

    async def _events(self, driver: Driver) -> AsyncGenerator[str, None]:
        """The answer as server-sent events. An error in the midst of it is the last of them."""
        choices = range(len(self._outputs))
        under_way = [output.has_room for output in self._outputs]
        begun = False
        try:
            async with aclosing(driver.run(self._engine, self._outputs)) as steps:
                async for _ in steps:
                    if not begun:
                        begun = True
                        yield _text(
                            piece for choice in choices for piece in self._answers.first(choice)
                        )
                    yield _text(
                        piece
                        for choice in choices
                        if under_way[choice]
                        for piece in self._news(choice, under_way)
                    )
        except Exception as error:
            known = as_api_error(error)
            if not begun or known is None:
                raise
            yield event(known.body)
            return
        yield _text(self._rest(begun, under_way)) + "data: [DONE]\n\n"

    def _news(self, choice: int, under_way: list[bool]) -> Iterator[Json]:
        """What is new of a choice; the last piece takes it out of those under way."""
        output = self._outputs[choice]
        done = output.request.done
        news = self._take(choice)
        if news.ids:
            yield from self._answers.piece(choice, news.text, news.ids, news.logprobs)
        if done:
            under_way[choice] = False
            yield from self._answers.last(choice, output.result())

    def _rest(self, begun: bool, under_way: Sequence[bool]) -> Iterator[Json]:
        """What comes at the end: choices for which there was no room, and the usage."""
        generations = [output.result() for output in self._outputs]
        for choice, generation in enumerate(generations):
            if not begun:
                yield from self._answers.first(choice)
            if under_way[choice] or generation.usage.completion_tokens == 0:
                yield from self._answers.last(choice, generation)
        if self._streaming.with_usage:
            yield self._answers.usage(generations)

    def _take(self, choice: int) -> News:
        """What is new of a choice, and timed."""
        output = self._outputs[choice]
        done = output.request.done
        news = output.take()
        if news.ids:
            self._timers[choice].tokens(len(news.ids))
        if done:
            self._timers[choice].end()
        return news


def _text(pieces: Iterable[Json]) -> str:
    return "".join(map(event, pieces))


async def _disconnected(request: Request) -> None:
    """Waits until the client has gone; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_prompts(value: object) -> list[Prompt]:
    """A prompt, or a list of prompts: texts or ids."""
    prompts = value if is_batch(value) else [value]
    if value is None or not isinstance(prompts, list):
        raise ApiError(400, "prompt: expected a text, ids, or a list of these", param="prompt")
    return prompts
