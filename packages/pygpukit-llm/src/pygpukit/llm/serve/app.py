"""The routes of the server."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from pygpukit.llm.driver import Driver, Steps
from pygpukit.llm.errors import PromptError
from pygpukit.llm.llm import LLM
from pygpukit.llm.serve.body import Body
from pygpukit.llm.serve.completions import Completions, Job
from pygpukit.llm.serve.errors import RETRY_SECONDS, ApiError, as_api_error
from pygpukit.llm.serve.metrics import Metrics
from pygpukit.llm.shared import SharedDevice
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

__all__ = ["ServerConfig", "create_app"]

_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server behaves.

    Attributes:
        api_keys: One of them must come with each request; without any everybody may ask. Those of
            different keys are served alike.
        max_body: Bytes of a request's body at most.
        time_limit: Seconds in which an answer must be complete; None is any time.
    """

    api_keys: Sequence[str] = ()
    max_body: int = 8 << 20
    time_limit: float | None = None


def create_app(
    models: Mapping[str, LLM],
    config: ServerConfig | None = None,
    *,
    device: SharedDevice | None = None,
) -> Starlette:
    """The server of one or several models, for any ASGI server.

    Args:
        models: What requests call each model; their engines should have fixed numbers of pages.
        config: How the server behaves.
        device: What runs several models; one runs by itself.

    Raises:
        PromptError: A model has no tokenizer.
        ValueError: There is no model, or there are several without a device that they share.
    """
    server = _Server(models, config or ServerConfig(), device)
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
        exception_handlers={HTTPException: _refusal, Exception: _failure},
        lifespan=server.lifespan,
    )


async def _refusal(request: Request, error: Exception) -> Response:
    """What Starlette refuses, such as an unknown path, in the form of all other errors."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    known = ApiError(error.status_code, message)
    return JSONResponse(known.body, known.status, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    """What isn't expected: the log says more."""
    known = ApiError(500, "the server has failed; its log says more")
    return JSONResponse(known.body, known.status)


class _Server:
    """What the routes share."""

    def __init__(
        self, models: Mapping[str, LLM], config: ServerConfig, device: SharedDevice | None
    ) -> None:
        self._models = dict(models)
        for name, llm in self._models.items():
            if llm.tokenizer is None:
                raise PromptError(f"the model {name!r} has no tokenizer, which a server needs")
        self._config = config
        self._started = int(time.time())
        engines = {name: llm.engine for name, llm in self._models.items()}
        self._steps: Steps
        if device is not None:
            self._steps = device
        elif len(engines) == 1:
            (self._steps,) = engines.values()
        else:
            raise ValueError(f"models: expected one, or a device they share; found {len(engines)}")
        self._metrics = Metrics(engines)
        self._driver: Driver | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the models as long as the server runs."""
        async with Driver(self._steps) as driver:
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
        """All models."""
        self._tenant(request)
        return JSONResponse({"object": "list", "data": list(map(self._model, self._models))})

    async def model(self, request: Request) -> Response:
        """A model, by its name."""
        self._tenant(request)
        return JSONResponse(self._model(self._find(request.path_params["model"])))

    async def chat_completions(self, request: Request) -> Response:
        """Answers a conversation."""
        tenant, (name, body) = self._tenant(request), await self._body(request)
        # Long prompts take time to encode, in which others are answered.
        job = await asyncio.to_thread(self._completions(name, tenant).chat, body)
        return await self._answer(request, job)

    async def text_completions(self, request: Request) -> Response:
        """Continues prompts."""
        tenant, (name, body) = self._tenant(request), await self._body(request)
        job = await asyncio.to_thread(self._completions(name, tenant).text, body)
        return await self._answer(request, job)

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt, or of a conversation."""
        self._tenant(request)
        name, body = await self._body(request)
        llm = self._models[name]
        messages, prompt = body.objects("messages"), body.text("prompt")
        body.finish()
        if (messages is None) == (prompt is None):
            raise ApiError(400, "give either prompt, a text, or messages", param="prompt")
        ids = llm.encode(prompt or "") if messages is None else llm.encode_chat(messages)
        length = llm.config.context_length
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": length})

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        self._tenant(request)
        name, body = await self._body(request)
        llm = self._models[name]
        tokens = body.take("tokens")
        body.finish()
        if not isinstance(tokens, list):
            message = f"tokens: expected a list of ids, found {tokens!r:.80}"
            raise ApiError(400, message, param="tokens")
        ids = llm.encode(tokens) if tokens else []
        assert llm.tokenizer is not None
        return JSONResponse({"prompt": llm.tokenizer.decode(ids)})

    async def _answer(self, request: Request, job: Job) -> Response:
        if self._driver is None:
            raise ApiError(503, "the server is stopping", retry_after=RETRY_SECONDS)
        return await job.respond(self._driver, request)

    def _completions(self, name: str, tenant: int) -> Completions:
        limit = self._config.time_limit
        deadline = None if limit is None else time.monotonic() + limit
        return Completions(self._models[name], self._metrics.of(name), name, tenant, deadline)

    def _model(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "pygpukit",
            "max_model_len": self._models[name].config.context_length,
        }

    def _find(self, name: object) -> str:
        """The name of the model that a request is for; where there is one, it needn't say so.

        Raises:
            ApiError: There is no such model.
        """
        names = list(self._models)
        if name is None and len(names) == 1:
            return names[0]
        if isinstance(name, str) and name in self._models:
            return name
        known = ", ".join(map(repr, names))
        if name is None:
            raise ApiError(400, f"model: expected one of {known}, found none", param="model")
        message = f"model: there is no {name!r:.80}, only {known}"
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

    async def _body(self, request: Request) -> tuple[str, Body]:
        """Which model a request is for, and what else it says."""
        limit, content = self._config.max_body, bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise ApiError(413, f"the body is larger than {limit} bytes; send less")
        body = Body.parse(bytes(content))
        return self._find(body.take("model")), body
