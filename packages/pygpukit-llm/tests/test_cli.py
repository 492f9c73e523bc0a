"""The command `pygpukit`, run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pygpukit.llm import __version__
from pygpukit.llm.cli.serve import divided

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-I", "-m", "pygpukit.llm.cli"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end; its input is empty unless `input` says otherwise."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        **{"input": "", "capture_output": True, "text": True, "encoding": "utf-8", **options},
        check=False,
    )


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
PROMPT_LENGTH = len("1user\nHi1\n1assistant\n")


@pytest.fixture
def model(
    logits_model: Callable[..., Path], byte_tokenizer: Callable[..., dict[str, object]]
) -> Callable[..., Path]:
    """A folder with a model that continues a prompt of some tokens with a text."""

    def model(
        answer: str, *, prompt_length: int = 2, context_length: int = 128, **files: object
    ) -> Path:
        logits = [[0.0] * 260 for _ in range(context_length)]
        for position, byte in enumerate([*answer.encode(), 257], prompt_length - 1):
            logits[position % context_length][byte] = 9.0
        generation = {"eos_token_id": 257}
        return logits_model(
            logits, tokenizer=byte_tokenizer(), generation_config=generation, **files
        )

    return model


def test_the_installed_command_answers_with_the_bundled_model() -> None:
    command = Path(sys.executable).with_name("pygpukit.exe" if os.name == "nt" else "pygpukit")
    done = subprocess.run(
        [command, "generate", "What is the capital of France?"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Paris" in done.stdout
    assert done.stderr.count("\n") <= 1  # that there is no GPU


def test_generate(model: Callable[..., Path]) -> None:
    done = run("generate", "--device", "cpu", "--model", model("Hello wörld"), "Hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello wörld\n", "")


def test_a_prompt_from_stdin(model: Callable[..., Path]) -> None:
    arguments = ["generate", "--device", "cpu", "--model", model("Hello")]
    assert run(*arguments, input="Hi\n").stdout == "Hello\n"
    assert run(*arguments, "-", input="Hi").stdout == "Hello\n"


def test_options_reach_the_model(model: Callable[..., Path]) -> None:
    arguments = ["generate", "--device", "cpu", "--model", model("Hello world"), "Hi"]
    assert run(*arguments, "--max-new-tokens", "3").stdout == "Hel\n"
    assert run(*arguments, "--stop", "xx", "--stop", " w").stdout == "Hello\n"
    first = run(*arguments, "--temperature", "9", "--seed", "1", "--max-new-tokens", "9", "--json")
    again = run(*arguments, "--temperature", "9", "--seed", "1", "--max-new-tokens", "9", "--json")
    other = run(*arguments, "--temperature", "9", "--seed", "2", "--max-new-tokens", "9", "--json")
    ids = [json.loads(done.stdout)["ids"] for done in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_json(model: Callable[..., Path]) -> None:
    done = run("generate", "--device", "cpu", "--model", model("né"), "Hi", "--json")
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert report["text"] == "né"
    assert report["ids"] == [*"né".encode(), 257]
    assert report["finish_reason"] == "stop"
    assert report["usage"] == {"prompt_tokens": 2, "completion_tokens": 4}
    assert set(report["timings"]) == {"load_s", "first_token_s", "generate_s"}
    assert "logprobs" not in report


def test_logprobs(model: Callable[..., Path]) -> None:
    arguments = ["generate", "--device", "cpu", "--model", model("ab"), "Hi", "--logprobs", "2"]
    entries = json.loads(run(*arguments, "--json").stdout)["logprobs"]
    assert [len(entry["top"]) for entry in entries] == [2, 2, 2]
    assert entries[0]["top"]["97"] == entries[0]["logprob"]
    lines = run(*arguments).stderr.splitlines()
    assert lines[0].startswith(f"token 97: {entries[0]['logprob']:.4f}")


def test_a_chat_template_is_used_unless_the_prompt_is_raw(model: Callable[..., Path]) -> None:
    template = {"tokenizer_config": {"chat_template": CHATML}}
    folder = model("Hello", prompt_length=PROMPT_LENGTH, **template)
    arguments = ["generate", "--device", "cpu", "--model", folder, "--json"]
    assert json.loads(run(*arguments, "Hi").stdout)["text"] == "Hello"
    raw = json.loads(run(*arguments, "Hi", "--raw", "--max-new-tokens", "1").stdout)
    assert raw["usage"]["prompt_tokens"] == 2
    system = run(*arguments, "Hi", "--system", "Be brief", "--max-new-tokens", "1")
    longer = PROMPT_LENGTH + len("1system\nBe brief1\n")
    assert json.loads(system.stdout)["usage"]["prompt_tokens"] == longer


def test_chat(model: Callable[..., Path]) -> None:
    folder = model("Hello", prompt_length=PROMPT_LENGTH, tokenizer_config={"chat_template": CHATML})
    arguments = ["chat", "--device", "cpu", "--model", folder]
    assert run(*arguments, input="Hi\n/reset\n\nHi\n/exit\nHi\n").stdout == "Hello\nHello\n"
    assert run(*arguments, input="Hi").stdout == "Hello\n"
    long = run(*arguments, input=f"{'long ' * 30}\nHi\n")
    assert (long.returncode, long.stdout) == (0, "Hello\n")
    assert "more than the model's context of 128; /reset forgets the conversation" in long.stderr


def test_info(model: Callable[..., Path]) -> None:
    folder = model("x")
    facts = json.loads(run("info", "--device", "cpu", "--model", folder, "--json").stdout)
    assert facts["versions"]["pygpukit-llm"] == __version__
    assert facts["devices"]["cpu"]["cores"] >= 1
    assert facts["model"]["architecture"] == "gpt2"
    assert facts["model"]["held_types"] == {"float32": 17}
    assert facts["model"]["weights_bytes"] == facts["model"]["parameters"] * 4
    assert facts["model"]["memory_needed_full_context"] == (
        facts["model"]["weights_bytes"] + 128 * facts["model"]["cache_bytes_per_token"]
    )
    shown = run("info", "--device", "cpu", "--model", folder).stdout
    assert "  architecture: gpt2\n" in shown
    assert f"  path: {folder}\n" in shown
    assert "  chat_template: no\n" in shown


def test_the_dtype_of_activations(model: Callable[..., Path]) -> None:
    folder = model("Hello")
    types = {}
    for dtype in ("float32", "bfloat16"):
        given = ["--device", "cpu", "--model", folder, "--dtype", dtype]
        assert run("generate", *given, "Hi").stdout == "Hello\n"
        facts = json.loads(run("info", *given, "--json").stdout)["model"]
        types[dtype] = facts["activation_type"], facts["cache_bytes_per_token"]
    assert types["float32"] == ("float32", 2 * types["bfloat16"][1])
    assert types["bfloat16"][0] == "bfloat16"


def test_serving_needs_names_that_differ(model: Callable[..., Path]) -> None:
    pytest.importorskip("uvicorn", reason="the extra: serve", exc_type=ImportError)
    folder = model("x")
    done = run("serve", "--device", "cpu", folder, "--model", folder)
    assert done.returncode == 2
    assert f"two models are called {folder.name!r}; name one of them" in done.stderr


def test_memory_is_divided_by_what_is_wanted() -> None:
    assert divided(90, [100, 100, 100]) == [30, 30, 30]
    assert divided(90, [10, 100, 100]) == [10, 40, 40]
    assert divided(90, [100, 20, 30]) == [40, 20, 30]
    assert divided(0, [5]) == [0]


def test_info_of_the_machine_alone() -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert {"cpu"} < set(facts["devices"])


def test_version_and_help() -> None:
    assert run("--version").stdout == f"pygpukit {__version__}\n"
    commands = ["generate", "chat", "serve", "info"]
    for arguments in [["--help"], *([command, "--help"] for command in commands)]:
        done = run(*arguments)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: pygpukit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["generat"], "invalid choice"),
        (["generate", "Hi", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["generate", "Hi", "--max-new-tokens", "many"], "--max-new-tokens: invalid int value"),
        (["generate", "Hi", "--temperature", "-1"], "temperature must be a finite number of at"),
        (["generate", "Hi", "--top-p", "1.5"], "top_p must be a number from 0 to 1, got 1.5"),
        (["generate", "Hi", "--max-new-tokens", "0"], "max_new_tokens must be a whole number"),
        (["generate", "Hi", "--model", "absent/folder/x"], "absent/folder/x: no such file"),
        (["generate", "Hi", "--device", "tpu"], 'unknown device "tpu"'),
        (["info", "--model", "absent.gguf"], "absent.gguf: no such file"),
        (["chat", "--top-k", "-1"], "top_k must be a whole number from 0"),
        (["serve", "--max-running", "0"], "--max-running: expected more than 0, found 0"),
        (["serve", "absent.gguf"], "absent.gguf: no such file"),
        (["serve", "x=absent.gguf"], "absent.gguf: no such file"),
        (["serve", "x="], "expected MODEL or NAME=MODEL, found 'x='"),
        (["serve", "a", "b", "--name", "x"], "--name: expected one model beside it, found 2"),
        (["generate", "Hi", "--device", "cpu", "--dtype", "int8"], "found 'int8'"),
        (["info", "--device", "cpu", "--dtype", "float16"], "dtype: expected float32 or bfloat16"),
    ],
    ids=str,
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pygpukit")
    assert message in done.stderr


def test_bad_models(model: Callable[..., Path], tmp_path: Path) -> None:
    folder = model("x")
    fails = ["generate", "--device", "cpu", "--model"]
    for arguments, message in [
        ([*fails, folder, "a" * 200], "200 tokens, more than the model's context of 128"),
        ([*fails, folder, ""], "the prompt is empty"),
        ([*fails, folder, "\udcff"], "half of a character"),
        ([*fails, folder, "Hi", "--system", "x"], "--system needs a chat template"),
        (["chat", "--device", "cpu", "--model", folder], "no chat template"),
        ([*fails, tmp_path / "absent", "Hi"], "absent: no such file"),
    ]:
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    done = run(*fails, folder, "Hi")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{folder / 'model.safetensors'}" in done.stderr
    assert "Git LFS pointer" in done.stderr
    done = run(*fails, folder, input=b"\xff\xfe", text=False, encoding=None)
    assert done.returncode == 2


def test_an_output_that_lacks_a_character(model: Callable[..., Path]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, *COMMAND[2:], "generate", "--device", "cpu", "--model", model("né"), "Hi"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "n?\n"


ENDLESS = ["--device", "cpu", "--ignore-eos", "--max-new-tokens", "8000"]


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Starts the command and waits until it has printed something."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    return process


@POSIX
def test_ctrl_c() -> None:
    with start("generate", *ENDLESS, "Count to a million.") as process:
        process.send_signal(signal.SIGINT)
        started = time.perf_counter()
        _, errors = process.communicate(timeout=20)
    assert time.perf_counter() - started < 5
    assert process.returncode == 130
    assert errors.strip() == b""


@POSIX
def test_ctrl_c_ends_an_answer_but_not_the_chat() -> None:
    with subprocess.Popen(
        [*COMMAND, "chat", *ENDLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"Count to a million.\n")
            process.stdin.flush()
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline()
        process.communicate(b"/exit\n", timeout=20)
    assert process.returncode == 0


@POSIX
def test_a_reader_that_leaves() -> None:
    with start("generate", *ENDLESS, "Count to a million.") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(timeout=20) == 141
    assert errors == b""


@POSIX
def test_a_progress_bar_on_a_terminal_only(model: Callable[..., Path]) -> None:
    import pty

    controller, terminal = pty.openpty()
    arguments = ["generate", "--device", "cpu", "--model", str(model("Hello")), "Hi"]
    done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert done.stdout == b"Hello\n"
    assert "loading ████" in shown
    assert shown.endswith("\r\x1b[K")
    assert "loading" not in run(*arguments).stderr


def test_a_revision_is_of_a_hub_id(model: Callable[..., Path]) -> None:
    done = run("info", "--model", model("x"), "--revision", "v2")
    assert done.returncode == 2
    assert "a revision is of a hub id" in done.stderr
