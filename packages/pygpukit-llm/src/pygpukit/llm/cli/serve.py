"""`pygpukit serve`: the model behind OpenAI's HTTP endpoints."""

from __future__ import annotations

import argparse
import os

from pygpukit.core import PygpukitError
from pygpukit.llm.cache import PAGE_SIZE, pages_for
from pygpukit.llm.cli.loading import load_model, model_path
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.llm import LLM

__all__ = ["run"]

CACHE_SHARE = {"cpu": 0.25, "cuda": 0.85}
"""Of the memory that is left behind the weights, what the cache takes."""


class ServeError(PygpukitError):
    """The server can't be started."""


def run(arguments: argparse.Namespace) -> None:
    """Loads the model and serves it until the process is told to end."""
    _check(arguments)
    try:
        import uvicorn
        from pygpukit.llm.serve import ServerConfig, create_app
    except ImportError as error:
        raise ServeError(
            f"{error.name} is missing; install what the server needs: "
            "pip install 'pygpukit-llm[serve]'"
        ) from error
    llm = load_model(arguments)
    llm.configure(
        EngineConfig(
            step_tokens=max(_step_tokens(llm, arguments), arguments.max_running),
            max_running=arguments.max_running,
            max_waiting=arguments.max_waiting,
            pages=_pages(llm, arguments),
        )
    )
    keys = [*arguments.api_key, *os.environ.get("PYGPUKIT_API_KEYS", "").split()]
    config = ServerConfig(
        model=arguments.name or model_path(arguments).stem,
        api_keys=keys,
        max_body=arguments.max_body,
        time_limit=arguments.time_limit,
    )
    uvicorn.run(
        create_app(llm, config),
        host=arguments.host,
        port=arguments.port,
        log_level=arguments.log_level,
        timeout_graceful_shutdown=arguments.shutdown_time,
    )


def _check(arguments: argparse.Namespace) -> None:
    for limit in ("max_running", "max_waiting", "step_tokens", "cache_memory"):
        value = getattr(arguments, limit)
        if value is not None and value <= 0:
            option = limit.replace("_", "-")
            raise ServeError(f"--{option}: expected more than 0, found {value}")


def _step_tokens(llm: LLM, arguments: argparse.Namespace) -> int:
    if arguments.step_tokens is not None:
        return int(arguments.step_tokens)
    return 128 if llm.device.name == "cpu" else 512


def _pages(llm: LLM, arguments: argparse.Namespace) -> int:
    """Pages of the cache: as many as were asked for, or fit, or can ever be needed."""
    element_bytes = 4 if llm.dtype == "float32" else 2
    page_bytes = llm.config.cache_bytes(PAGE_SIZE, element_bytes=element_bytes)
    if arguments.cache_memory is not None:
        wanted = int(arguments.cache_memory * 2**30)
        return max(1, wanted // page_bytes)
    share = CACHE_SHARE[llm.device.name.partition(":")[0]]
    fitting = int(share * llm.device.info().available_memory) // page_bytes
    needed: int = arguments.max_running * pages_for(llm.config.context_length)
    return max(1, min(fitting, needed))
