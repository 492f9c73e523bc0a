"""A server that runs in a thread while it is tested, and OpenAI's client for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import openai
import uvicorn
from pygpukit.llm import LLM
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.serve import ServerConfig, create_app
from pygpukit.llm.shared import SharedDevice

CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""A chat template."""


@contextmanager
def served(
    models: LLM | Mapping[str, LLM], engine: EngineConfig | None = None, **options: object
) -> Iterator[str]:
    """The address of a server of models, or of one called "test", that runs meanwhile."""
    engine = engine or EngineConfig(pages=64, step_tokens=64, max_running=32)
    if isinstance(models, LLM):
        models.configure(engine)
        app = create_app({"test": models}, ServerConfig(**options))
    else:
        device = SharedDevice([(llm, engine) for llm in models.values()])
        app = create_app(models, ServerConfig(**options), device=device)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=[[listener]])
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
