"""GGUF files: the reference models written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import LoadError, load_safetensors
from pygpukit.llm import LLM, ConfigError, WeightsError

Array = npt.NDArray[np.float32]
Write = Callable[..., Path]
IDS = [5, 9, 200, 31, 7, 5, 120]

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, BF16, NVFP4 = 0, 30, 40


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(value: object) -> bytes:
    """A metadata value with its type in front."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<Ii" if value < 0 else "<II", INT32 if value < 0 else UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    assert isinstance(value, list)
    items = b"".join(entry(item)[4:] for item in value)
    return struct.pack("<I", ARRAY) + entry(value[0])[:4] + struct.pack("<Q", len(value)) + items


def write_gguf(
    file: Path, metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, Array]]
) -> None:
    """Writes the tensors, each with ggml's number of its type."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + entry(value) for key, value in metadata.items())
    data = b""
    for name, (kind, array) in tensors.items():
        head += text(name) + struct.pack("<I", array.ndim)
        head += struct.pack(f"<{array.ndim}Q", *reversed(array.shape))
        head += struct.pack("<IQ", kind, len(data))
        if kind == BF16:
            data += (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            data += array.tobytes()
        data += b"\0" * (-len(data) % 32)
    file.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def gguf_metadata(architecture: str, config: dict[str, Any]) -> dict[str, object]:
    layer_norm = architecture == "gpt2"
    heads = config.get("num_attention_heads", config.get("n_head"))
    keys = {
        "context_length": config.get("max_position_embeddings", config.get("n_positions")),
        "embedding_length": config.get("hidden_size", config.get("n_embd")),
        "block_count": config.get("num_hidden_layers", config.get("n_layer")),
        "feed_forward_length": config.get("intermediate_size", 256),
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
    }
    if layer_norm:
        keys["attention.layer_norm_epsilon"] = config["layer_norm_epsilon"]
    else:
        keys["attention.layer_norm_rms_epsilon"] = config["rms_norm_eps"]
        keys["attention.key_length"] = config.get("head_dim", 16)
        keys["rope.freq_base"] = config["rope_parameters"]["rope_theta"]
    size = config["vocab_size"]
    vocabulary = [*(chr(0x100 + id_) for id_ in range(size - 1)), "\u0100\u0101"]
    return {
        "general.architecture": architecture,
        "general.name": "reference",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [1] * size,
        "tokenizer.ggml.merges": ["\u0100 \u0101"],
        "tokenizer.ggml.eos_token_id": 2,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
    }


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    _, layers, rest = stem.partition(".layers." if ".layers." in stem else ".h.")
    if not layers:
        return f"{NAMES[stem]}.{kind}"
    layer, _, part = rest.partition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def interleaved(rows: Array, head_dim: int) -> Array:
    """The order of rows that llama.cpp's converter gives to queries and keys."""
    split = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


@pytest.fixture
def gguf(reference_models: Path, tmp_path: Path) -> Write:
    """Writes a reference model as GGUF, with changes to its metadata and its tensors."""

    def gguf(
        name: str,
        metadata: Mapping[str, object] | None = None,
        tensors: Mapping[str, tuple[int, Array]] | None = None,
    ) -> Path:
        folder = reference_models / name
        config = json.loads((folder / "config.json").read_text())
        architecture = config["model_type"]
        converted: dict[str, tuple[int, Array]] = {}
        for key, view in load_safetensors(folder / "model.safetensors").items():
            array, new = np.array(view.cast("float32").numpy()), gguf_name(key)
            if architecture == "gpt2" and new.endswith(TRANSPOSED):
                array = np.ascontiguousarray(array.T)
            if architecture == "llama" and new.endswith(("attn_q.weight", "attn_k.weight")):
                array = interleaved(array, config["head_dim"])
            converted[new] = (F32 if array.ndim == 1 else BF16, array)
        values = gguf_metadata(architecture, config) | dict(metadata or {})
        kept = {key: value for key, value in values.items() if value is not ...}
        file = tmp_path / f"{name}.gguf"
        write_gguf(file, kept, converted | dict(tensors or {}))
        return file

    return gguf


def logits(model: Path) -> Array:
    return LLM.from_pretrained(model, device="cpu").logits(IDS)


@pytest.mark.parametrize("name", ["llama2", "qwen2", "qwen3", "gpt2"])
def test_the_same_model_as_in_a_folder(gguf: Write, reference_models: Path, name: str) -> None:
    np.testing.assert_array_equal(logits(gguf(name)), logits(reference_models / name))


def test_frequency_divisors(gguf: Write, reference_models: Path) -> None:
    """Llama 3's scaling is a tensor in GGUF."""
    folder = reference_models / "llama3-rope-scaled"
    scaled = LLM.from_pretrained(folder, device="cpu").config.rope
    assert scaled is not None
    exponents = -np.arange(len(scaled.inv_freq)) / len(scaled.inv_freq)
    factors = (scaled.theta**exponents / np.array(scaled.inv_freq)).astype(np.float32)
    assert factors.max() > 2
    file = gguf("llama3-rope-scaled", tensors={"rope_freqs.weight": (F32, factors)})
    expected = logits(folder)
    np.testing.assert_allclose(logits(file), expected, rtol=0, atol=1e-4 * expected.std())


def test_facts_that_only_the_file_has(gguf: Write) -> None:
    llm = LLM.from_pretrained(
        gguf(
            "llama2",
            {
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eot_token_id": 7,
                "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
            },
        ),
        device="cpu",
    )
    assert llm.config.bos_token_id == 1
    assert llm.config.eos_token_ids == (2, 7)
    assert llm.apply_chat_template([{"role": "user", "content": "x"}]) == "\u0101x"
    assert llm.tokenizer is not None
    assert llm.tokenizer.token_to_id("\u0105") == 5


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' isn't supported"),
        ({"general.architecture": ...}, "architecture None isn't supported"),
        ({"llama.block_count": ...}, "'block_count' is missing"),
        ({"llama.block_count": "3"}, "'block_count' must be a whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "'attention.layer_norm_rms_epsilon'"),
        ({"llama.expert_count": 8}, "'expert_count': 8 isn't supported"),
        ({"llama.attention.value_length": 8}, "'attention.value_length': 8 isn't supported"),
        ({"llama.logit_scale": 0.5}, "'logit_scale' not understood"),
        ({"llama.rope.scaling.type": "spiral"}, "rope type 'spiral'"),
        ({"llama.rope.scaling.factor": 4.0}, "rope.scaling.factor 4.0 without a scaling type"),
    ],
    ids=str,
)
def test_metadata_is_read_strictly(gguf: Write, metadata: dict[str, object], message: str) -> None:
    file = gguf("llama2", metadata)
    with pytest.raises(ConfigError, match=message) as caught:
        logits(file)
    assert str(caught.value).startswith(str(file))


def test_linear_scaling(gguf: Write) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = LLM.from_pretrained(gguf("llama2", scaling), device="cpu").config.rope
    assert rope is not None
    assert (rope.type, rope.inv_freq[0]) == ("linear", 0.25)


def test_tensors_that_do_not_fit(gguf: Write) -> None:
    more = {"blk.0.attn_norm_2.weight": (F32, np.zeros(64, np.float32))}
    file = gguf("llama2", tensors=more)
    with pytest.raises(WeightsError, match=r"1 left over: blk\.0\.attn_norm_2\.weight"):
        logits(file)


def test_a_quantisation_that_is_not_supported(gguf: Write) -> None:
    file = gguf("llama2", tensors={"output.weight": (NVFP4, np.zeros((320, 64), np.float32))})
    with pytest.raises(LoadError, match=r"output\.weight.*nvfp4"):
        logits(file)
