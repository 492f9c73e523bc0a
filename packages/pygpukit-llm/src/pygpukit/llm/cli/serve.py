"""`pygpukit serve`: models behind OpenAI's HTTP endpoints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pygpukit.core import PygpukitError
from pygpukit.llm.cache import page_bytes, pages_for
from pygpukit.llm.cli.loading import load_from, model_path
from pygpukit.llm.device import served_step_tokens
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.llm import LLM
from pygpukit.llm.shared import SharedDevice

__all__ = ["divided", "run"]

CACHE_SHARE = {"cpu": 0.25, "cuda": 0.85}
"""Of the memory that is left behind the weights, what the caches take."""


class ServeError(PygpukitError):
    """The server can't be started."""


def run(arguments: argparse.Namespace) -> None:
    """Loads the models and serves them until the process is told to end."""
    _check(arguments)
    try:
        import uvicorn
        from pygpukit.llm.serve import ServerConfig, create_app
    except ImportError as error:
        raise ServeError(
            f"{error.name} is missing; install what the server needs: "
            "pip install 'pygpukit-llm[serve]'"
        ) from error
    paths = _paths(arguments)
    models = {name: load_from(path, arguments) for name, path in paths.items()}
    llms = list(models.values())
    step_tokens: int = arguments.step_tokens or served_step_tokens(llms[0].device)
    configs = [
        EngineConfig(
            step_tokens=max(step_tokens, arguments.max_running),
            max_running=arguments.max_running,
            max_waiting=arguments.max_waiting,
            pages=pages,
        )
        for llm, pages in zip(llms, _pages(llms, arguments), strict=True)
    ]
    device = SharedDevice(list(zip(llms, configs, strict=True)))
    config = ServerConfig(
        api_keys=[*arguments.api_key, *os.environ.get("PYGPUKIT_API_KEYS", "").split()],
        max_body=arguments.max_body,
        time_limit=arguments.time_limit,
    )
    uvicorn.run(
        create_app(models, config, device=device),
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


def _paths(arguments: argparse.Namespace) -> dict[str, Path]:
    """Where the models are, by the names that requests call them."""
    given = [*arguments.models, *(arguments.model or [])]
    if len(given) > 1:
        for option in ("name", "revision"):
            if getattr(arguments, option) is not None:
                raise ServeError(
                    f"--{option}: expected one model beside it, found {len(given)}; "
                    "names of several are written NAME=MODEL"
                )
    paths: dict[str, Path] = {}
    for entry in given or [None]:
        name, model = _named(entry)
        path = model_path(model, arguments.revision)
        name = arguments.name or name or path.stem
        if name in paths:
            raise ServeError(f"two models are called {name!r}; name one of them: NAME=MODEL")
        paths[name] = path
    return paths


def _named(entry: str | None) -> tuple[str | None, str | None]:
    """The name and the model of MODEL or NAME=MODEL."""
    if entry is None or "=" not in entry or Path(entry).exists():
        return None, entry
    name, _, model = entry.partition("=")
    if not name or not model:
        raise ServeError(f"expected MODEL or NAME=MODEL, found {entry!r}")
    return name, model


def _pages(llms: Sequence[LLM], arguments: argparse.Namespace) -> list[int]:
    """Pages of each model's cache: of what was asked for or fits, as much as can be needed."""
    sizes = [page_bytes(llm.config, llm.dtype) for llm in llms]
    if arguments.cache_memory is not None:
        quotas = [int(arguments.cache_memory * 2**30) // len(llms)] * len(llms)
    else:
        device = llms[0].device
        share = CACHE_SHARE[device.name.partition(":")[0]]
        needed = [
            arguments.max_running * pages_for(llm.config.context_length) * size
            for llm, size in zip(llms, sizes, strict=True)
        ]
        quotas = divided(int(share * device.info().available_memory), needed)
    return [max(1, quota // size) for quota, size in zip(quotas, sizes, strict=True)]


def divided(total: int, wanted: Sequence[int]) -> list[int]:
    """Shares of `total`, alike, but none larger than what is wanted; others get what one leaves."""
    shares, left = [0] * len(wanted), total
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, index in enumerate(order):
        shares[index] = min(wanted[index], left // (len(order) - done))
        left -= shares[index]
    return shares
