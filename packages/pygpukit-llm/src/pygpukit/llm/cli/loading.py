"""Loading a model for a command, with a progress bar on a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pygpukit.llm.hub import bundled_model, locate
from pygpukit.llm.llm import LLM

__all__ = ["load_from", "load_model", "model_path"]

_WIDTH = 30


def model_path(model: str | None, revision: str | None) -> Path:
    """Where a model is that the command line names, or the bundled one."""
    return bundled_model() if model is None else locate(model, revision=revision)


def load_model(arguments: argparse.Namespace) -> LLM:
    """Loads the model that the command line names, where and how it says."""
    return load_from(model_path(arguments.model, arguments.revision), arguments)


def load_from(path: Path, arguments: argparse.Namespace) -> LLM:
    """Loads the model at a path, where and how the command line says."""
    device, dtype = arguments.device, arguments.dtype
    if not sys.stderr.isatty():
        return LLM.from_pretrained(path, device=device, dtype=dtype)
    try:
        return LLM.from_pretrained(path, device=device, dtype=dtype, progress=_show_progress)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _show_progress(done: int, total: int) -> None:
    filled = _WIDTH * done // total
    bar = "█" * filled + "░" * (_WIDTH - filled)
    print(
        f"\rloading {bar} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB",
        end="",
        file=sys.stderr,
        flush=True,
    )
