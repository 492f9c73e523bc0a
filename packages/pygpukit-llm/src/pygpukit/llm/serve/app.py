"""The routes of the server."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from pygpukit.llm.driver import Driver
from pygpukit.llm.llm import LLM
from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.completions import Completions, Job
from pygpukit.llm.serve.errors import RETRY_SECONDS, ApiError, as_api_error
from pygpukit.llm.serve.metrics import Metrics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

__all__ = ["ServerConfig", "create_app"]

_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server behaves.

    Attributes:
        model: What the model is called in requests and answers.
        api_keys: One of them must come with each request; without any everybody may ask. Those of
            different keys are served alike.
        max_body: Bytes of a request's body at most.
        time_limit: Seconds in which an answer must be complete; None is any time.
    """

    model: str
    api_keys: Sequence[str] = ()
    max_body: int = 8 << 20
    time_limit: float | None = None


def create_app(llm: LLM, config: ServerConfig) -> Starlette:
    """The server of a model, for any ASGI server.

    Args:
        llm: The model; its engine should have a fixed number of pages.
        config: How the server behaves.
    """
    server = _Server(llm, config)
    return Starlette(
        routes=[
            Route("/", server.page),
            Route("/health", server.health),
            Route("/metrics", server.metrics_text),
            server.route("GET", "/v1/models", server.models),
            server.route("GET", "/v1/models/{model:path}", server.model),
            server.route("POST", "/v1/chat/completions", server.chat_completions),
            server.route("POST", "/v1/completions", server.text_completions),
            server.route("POST", "/tokenize", server.tokenize),
            server.route("POST", "/detokenize", server.detokenize),
        ],
        lifespan=server.lifespan,
    )


class _Server:
    """What the routes share."""

    def __init__(self, llm: LLM, config: ServerConfig) -> None:
        self._llm = llm
        self._config = config
        self._started = int(time.time())
        self._metrics = Metrics(llm.engine)
        self._driver: Driver | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the engine as long as the server runs."""
        async with Driver(self._llm.engine) as driver:
            self._driver = driver
            yield
            self._driver = None

    def route(self, method: str, path: str, handler: _Handler) -> Route:
        """A route whose errors become answers, and whose responses are counted."""

        async def guarded(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception as error:
                known = as_api_error(error)
                if known is None:
                    self._metrics.responses.labels(path, 500).inc()
                    raise
                response = JSONResponse(known.body, known.status, known.headers)
            self._metrics.responses.labels(path, response.status_code).inc()
            return response

        return Route(path, guarded, methods=[method])

    async def page(self, request: Request) -> Response:
        """The chat page."""
        page = resources.files("pygpukit.llm.serve").joinpath("page.html")
        return HTMLResponse(page.read_text(encoding="utf-8"))

    async def health(self, request: Request) -> Response:
        """Whether the server takes requests."""
        if self._driver is None:
            return JSONResponse({"status": "stopping"}, 503, {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse({"status": "ok"})

    async def metrics_text(self, request: Request) -> Response:
        """The metrics for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The one model."""
        self._tenant(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The model, by its name."""
        self._tenant(request)
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def chat_completions(self, request: Request) -> Response:
        """Answers a conversation."""
        tenant, body = self._tenant(request), await self._body(request)
        # Long prompts take time to encode, in which others are answered.
        job = await asyncio.to_thread(self._completions(tenant).chat, body)
        return await self._answer(request, job)

    async def text_completions(self, request: Request) -> Response:
        """Continues prompts."""
        tenant, body = self._tenant(request), await self._body(request)
        job = await asyncio.to_thread(self._completions(tenant).text, body)
        return await self._answer(request, job)

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt, or of a conversation."""
        self._tenant(request)
        body = await self._body(request)
        messages, prompt = body.objects("messages"), body.text("prompt")
        body.finish()
        if (messages is None) == (prompt is None):
            raise ApiError(400, "give either prompt, a text, or messages", param="prompt")
        if messages is not None:
            ids = self._llm.encode_chat(messages)
        else:
            ids = self._llm.encode(prompt or "")
        length = self._llm.config.context_length
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": length})

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        self._tenant(request)
        body = await self._body(request)
        ids = self._llm.encode(body.take("tokens") or [])
        body.finish()
        assert self._llm.tokenizer is not None
        return JSONResponse({"prompt": self._llm.tokenizer.decode(ids)})

    async def _answer(self, request: Request, job: Job) -> Response:
        if self._driver is None:
            raise ApiError(503, "the server is stopping", retry_after=RETRY_SECONDS)
        return await job.respond(self._driver, request)

    def _completions(self, tenant: int) -> Completions:
        limit = self._config.time_limit
        deadline = None if limit is None else time.monotonic() + limit
        return Completions(self._llm, self._metrics, self._config.model, tenant, deadline)

    def _model(self) -> dict[str, object]:
        return {
            "id": self._config.model,
            "object": "model",
            "created": self._started,
            "owned_by": "pygpukit",
            "max_model_len": self._llm.config.context_length,
        }

    def _check_model(self, name: object) -> None:
        if name is not None and name != self._config.model:
            message = f"model: there is no {name!r:.80}, only {self._config.model!r}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def _tenant(self, request: Request) -> int:
        """Who asks: the number of the API key.

        Raises:
            ApiError: Without a key that is known.
        """
        if not self._config.api_keys:
            return 0
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        found = [hmac.compare_digest(given, key.encode()) for key in self._config.api_keys]
        if not any(found):
            message = "an API key is needed: send the header Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key")
        return found.index(True)

    async def _body(self, request: Request) -> Body:
        limit, content = self._config.max_body, bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise ApiError(413, f"the body is larger than {limit} bytes; send less")
        body = Body.parse(bytes(content))
        self._check_model(body.take("model"))
        return body
