"""The command `pygpukit`: generate, chat, serve, info."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from pygpukit.llm.cli.options import build_parser

__all__ = ["main"]

_USAGE_ERROR = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    parsed = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that lacks a character shows a question mark, not a traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return 0


def _run(parsed: argparse.Namespace) -> None:
    from pygpukit.core import PygpukitError
    from pygpukit.tokenizer import TokenizerLoadError

    try:
        parsed.run(parsed)
    except (PygpukitError, TokenizerLoadError) as error:
        message = " ".join(str(error).split())
        print(f"pygpukit: error: {message}", file=sys.stderr)
        raise SystemExit(_USAGE_ERROR) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    print(f"pygpukit: {message}", file=sys.stderr)
