"""Loading a model for a command, with a progress bar on a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pygpukit.llm.hub import bundled_model, locate
from pygpukit.llm.llm import LLM

__all__ = ["load_model", "model_path"]

_WIDTH = 30


def model_path(arguments: argparse.Namespace) -> Path:
    """Where the model is that `--model` and `--revision` name, or the bundled one."""
    if arguments.model is None:
        return bundled_model()
    return locate(arguments.model, revision=arguments.revision)


def load_model(arguments: argparse.Namespace) -> LLM:
    """Loads the model that the command line names, where it says."""
    path, device = model_path(arguments), arguments.device
    if not sys.stderr.isatty():
        return LLM.from_pretrained(path, device=device)
    try:
        return LLM.from_pretrained(path, device=device, progress=_show_progress)
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
