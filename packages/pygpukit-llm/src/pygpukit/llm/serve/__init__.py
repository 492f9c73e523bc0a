"""An HTTP server with OpenAI's endpoints, of the extra `serve`: `pygpukit serve MODEL`."""

from __future__ import annotations

from pygpukit.llm.serve.app import ServerConfig, create_app

__all__ = ["ServerConfig", "create_app"]
