"""Models for tests: small ones with transformers' results, and ones whose logits a test sets."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import Device, DeviceError, load_safetensors
from pygpukit.llm import LLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "support"))

# A shell has what it starts in the background ignore Ctrl-C, and what that starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

Array = npt.NDArray[Any]
WriteSafetensors = Callable[[Path, Mapping[str, Array]], None]

_STORED = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32"}
"""Names in safetensors files; bfloat16 comes as its bits."""


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, as in GPT-2."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def write_safetensors(file: Path, tensors: Mapping[str, Array], *, uint8: str = "F8_E4M3") -> None:
    header, data = {}, b""
    for name, array in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": uint8 if array.dtype == np.uint8 else _STORED[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture(name="write_safetensors", scope="session")
def _write_safetensors() -> WriteSafetensors:
    """Writes arrays as a safetensors file; uint16 and uint8 are the bits of bfloat16 and FP8."""
    return write_safetensors


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first GPU; without one the test is skipped."""
    try:
        return Device("cuda")
    except DeviceError as error:
        pytest.skip(f"no GPU: {error}")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    """Each device in turn; where there is no GPU its tests are skipped."""
    return request.getfixturevalue("gpu") if request.param == "cuda" else Device("cpu")


@pytest.fixture(scope="session")
def reference_models() -> Path:
    """Folders of small models with random weights and what transformers computes with them."""
    return HERE / "reference_models"


@pytest.fixture
def gguf(reference_models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a reference model as GGUF, with changes to its metadata and tensors; `...` drops."""

    from gguf_files import converted, write_gguf

    def gguf(
        name: str,
        metadata: Mapping[str, object] | None = None,
        tensors: Mapping[str, Any] | None = None,
    ) -> Path:
        values, arrays = converted(reference_models / name)
        values |= dict(metadata or {})
        kept = {key: value for key, value in values.items() if value is not ...}
        changed = arrays | dict(tensors or {})
        file = tmp_path / f"{Path(name).name}.gguf"
        write_gguf(file, kept, {key: array for key, array in changed.items() if array is not ...})
        return file

    return gguf


@pytest.fixture(scope="session")
def reference(reference_models: Path) -> Callable[[str], dict[str, Array]]:
    """Transformers' results with a reference model: prompt_ids, logits, greedy_ids, margins."""

    def reference(name: str) -> dict[str, Array]:
        file = reference_models / name / "reference.safetensors"
        return {key: view.numpy() for key, view in load_safetensors(file).items()}

    return reference


@pytest.fixture
def copied_model(reference_models: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a reference model, with changes to its config.json; `...` drops a key."""

    def copied_model(name: str, **changes: object) -> Path:
        folder = tmp_path / f"{Path(name).name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(reference_models / name / file, folder / file)
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))
        return folder

    return copied_model


SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
"""Ids 256 to 259 of the scripted models; below are the bytes themselves."""


def tokenizer_json(**changes: object) -> dict[str, object]:
    """A tokenizer without merges: each byte is a token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 256 + index, "content": token, "special": True, **flags}
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {character: byte for byte, character in enumerate(byte_alphabet())},
            "merges": [],
        },
        **changes,
    }


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., dict[str, object]]:
    """Builds a tokenizer.json whose tokens are bytes, with changes to its keys."""
    return tokenizer_json


def position_logits_model(logits: Array) -> dict[str, Array]:
    """A GPT-2 whose logits at position p are `logits[p]`, whatever its input.

    Attention and MLP add nothing, the token embedding is zero, and the embedding of position p is
    the unit vector p; the last norm is set so that its result is that unit vector again.
    """
    positions = len(logits)
    high = (1 - 1 / positions) / np.sqrt((1 - 1 / positions) / positions + 1e-5)
    low = -(1 / positions) / np.sqrt((1 - 1 / positions) / positions + 1e-5)
    tensors: dict[str, Array] = {
        "wte.weight": np.zeros((logits.shape[1], positions)),
        "wpe.weight": np.eye(positions),
        "ln_f.weight": np.full(positions, 1 / (high - low)),
        "ln_f.bias": np.full(positions, -low / (high - low)),
    }
    shapes = {
        "attn.c_attn": (positions, 3 * positions),
        "attn.c_proj": (positions, positions),
        "mlp.c_fc": (positions, 4),
        "mlp.c_proj": (4, positions),
    }
    for name, shape in shapes.items():
        tensors[f"h.0.{name}.weight"] = np.zeros(shape)
        tensors[f"h.0.{name}.bias"] = np.zeros(shape[1])
    for name in ("ln_1", "ln_2"):
        tensors[f"h.0.{name}.weight"] = np.ones(positions)
        tensors[f"h.0.{name}.bias"] = np.zeros(positions)
    tensors = {f"transformer.{name}": array for name, array in tensors.items()}
    tensors["lm_head.weight"] = logits.T
    return {name: array.astype(np.float32) for name, array in tensors.items()}


@pytest.fixture
def logits_model(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a model whose logits at each position are given, (positions, vocab_size).

    Keyword arguments are further files of the folder, by the names of their JSON files.
    """

    def logits_model(logits: npt.ArrayLike, **files: object) -> Path:
        logits = np.asarray(logits, np.float32)
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        write_safetensors(folder / "model.safetensors", position_logits_model(logits))
        config = {
            "model_type": "gpt2",
            "n_positions": len(logits),
            "n_embd": len(logits),
            "n_inner": 4,
            "n_head": 1,
            "n_layer": 1,
            "vocab_size": logits.shape[1],
            "tie_word_embeddings": False,
        }
        for name, content in {"config": config, **files}.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return logits_model


@pytest.fixture
def scripted(logits_model: Callable[..., Path]) -> Callable[..., LLM]:
    """A model that answers any prompt of `prompt_length` tokens with given bytes and ids."""

    def scripted(
        script: str | Iterable[int],
        *,
        prompt_length: int = 1,
        context_length: int = 64,
        config: Mapping[str, object] | None = None,
        **files: object,
    ) -> LLM:
        ids: Sequence[int] = script.encode() if isinstance(script, str) else list(script)
        logits = np.zeros((context_length, 260), np.float32)
        for position, id_ in enumerate(ids, prompt_length - 1):
            logits[position, id_] = 10
        folder = logits_model(logits, **{"tokenizer": tokenizer_json(), **files})
        if config:
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return LLM.from_pretrained(folder, device="cpu")

    return scripted
