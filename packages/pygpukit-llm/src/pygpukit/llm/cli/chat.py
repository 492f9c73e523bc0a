"""`pygpukit chat`: a conversation on the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys

from pygpukit.core import PygpukitError
from pygpukit.llm.cli.loading import load_model
from pygpukit.llm.cli.options import generation_options
from pygpukit.llm.errors import ChatTemplateError, ContextLengthError
from pygpukit.llm.llm import LLM, GenerationOptions

__all__ = ["run"]

_HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends it, Ctrl-C stops an answer"


def run(arguments: argparse.Namespace) -> None:
    """Reads messages from stdin and streams the answers, until the end of the input or /exit."""
    options = generation_options(arguments)
    llm = load_model(arguments)
    if not llm.has_chat_template:
        raise ChatTemplateError("the model has no chat template; use: pygpukit generate --raw")
    conversation = _Conversation(llm, arguments.system, options)
    interactive = sys.stdin.isatty()
    if interactive:
        _enable_line_editing()
        print(_HELP, file=sys.stderr)
    while (message := _read_message(interactive)) is not None:
        if message in ("/exit", "/quit"):
            return
        if message == "/reset":
            conversation.reset()
        elif message:
            conversation.answer(message)


class _Conversation:
    """The messages so far; a turn that fails or is interrupted leaves them whole."""

    def __init__(self, llm: LLM, system: str | None, options: GenerationOptions) -> None:
        self._llm = llm
        self._system = system
        self._options = options
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the system message."""
        self._messages: list[dict[str, str]] = []
        if self._system is not None:
            self._messages.append({"role": "system", "content": self._system})

    def answer(self, message: str) -> None:
        """Streams the answer to a message and remembers both."""
        turn = {"role": "user", "content": message}
        try:
            stream = self._llm.chat_stream([*self._messages, turn], **self._options)
        except ContextLengthError as error:
            print(f"{error}; /reset forgets the conversation", file=sys.stderr)
            return
        try:
            for piece in stream:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            stream.close()
        except PygpukitError:
            print()
            raise
        print(flush=True)
        answer = {"role": "assistant", "content": stream.generation.text}
        self._messages += [turn, answer]


def _read_message(interactive: bool) -> str | None:
    """The next line, or None at the end of the input."""
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None


def _enable_line_editing() -> None:
    # Importing it is what makes input() edit lines; Windows' console does so by itself.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
