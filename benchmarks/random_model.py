"""Checkpoints of real shapes with random weights: what benchmarks without a download run on."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}
CONFIGS: dict[str, dict[str, object]] = {
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}


def shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Llama or Qwen3 checkpoint."""

    def number(key: str) -> int:
        value = config[key]
        assert isinstance(value, int)
        return value

    hidden, inner, dim = number("hidden_size"), number("intermediate_size"), number("head_dim")
    heads, kv_heads = number("num_attention_heads"), number("num_key_value_heads")
    result: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (number("vocab_size"), hidden)
    }
    for layer in range(number("num_hidden_layers")):
        prefix = f"model.layers.{layer}."
        result |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (heads * dim, hidden),
            prefix + "self_attn.k_proj.weight": (kv_heads * dim, hidden),
            prefix + "self_attn.v_proj.weight": (kv_heads * dim, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, heads * dim),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
        }
        if config["model_type"] == "qwen3":
            result[prefix + "self_attn.q_norm.weight"] = (dim,)
            result[prefix + "self_attn.k_norm.weight"] = (dim,)
    result["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (number("vocab_size"), hidden)
    return result


def weight_bytes_per_token(name: str) -> int:
    """Bytes of weights that decoding reads for a token: all but embeddings of the input alone."""
    config = CONFIGS[name]
    sizes = {tensor: 2 * math.prod(shape) for tensor, shape in shapes(config).items()}
    if not config["tie_word_embeddings"]:
        del sizes["model.embed_tokens.weight"]
    return sum(sizes.values())


def cache_bytes_per_position(name: str) -> int:
    """Bytes of keys and values that decoding reads for a position of the context."""
    config = CONFIGS[name]
    sizes = [config[key] for key in ("num_hidden_layers", "num_key_value_heads", "head_dim")]
    assert all(isinstance(size, int) for size in sizes)
    return 2 * 2 * math.prod(sizes)


def words(tensors: dict[str, tuple[int, ...]]) -> Iterator[Iterator[np.ndarray]]:
    """The bfloat16 words of each tensor, in pieces.

    Matrices are cut out of one long row of random numbers, at a place of its own for each. Its
    length is odd: the rows of a longer matrix begin elsewhere each time, so that no two are alike
    and logits tie no more often than a real model's.
    """
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((1 << 25) - 1, np.float32) * 0.02
    random = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    ones = np.full(1 << 16, 0x3F80, np.uint16)

    def pieces(source: np.ndarray, left: int) -> Iterator[np.ndarray]:
        at = int(rng.integers(0, len(source) - left)) if left < len(source) else 0
        while left:
            part = source[at : at + left]
            yield part
            left, at = left - len(part), 0

    for shape in tensors.values():
        yield pieces(ones if len(shape) == 1 else random, math.prod(shape))


def write(folder: Path, name: str) -> int:
    """Write config.json and model.safetensors, bfloat16; returns the bytes of all tensors."""
    config = {**CONFIGS[name], "torch_dtype": "bfloat16", "eos_token_id": 2, "bos_token_id": 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    tensors = shapes(config)
    for tensor, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for parts in words(tensors):
            for part in parts:
                file.write(part.tobytes())
    return end


MORE_GGUF_NAMES = {
    "lm_head.weight": "output.weight",
    "model.layers.{}.self_attn.q_norm.weight": "blk.{}.attn_q_norm.weight",
    "model.layers.{}.self_attn.k_norm.weight": "blk.{}.attn_k_norm.weight",
}


def write_gguf(path: Path, name: str) -> None:
    """Write a model as a GGUF file without a vocabulary, for llama.cpp; needs gguf.

    Norms are float32, as llama.cpp wants them.
    """
    import gguf
    import smollm2

    config = CONFIGS[name]
    writer = gguf.GGUFWriter(path, str(config["model_type"]))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    for add, key in [
        (writer.add_vocab_size, "vocab_size"),
        (writer.add_context_length, "max_position_embeddings"),
        (writer.add_embedding_length, "hidden_size"),
        (writer.add_feed_forward_length, "intermediate_size"),
        (writer.add_block_count, "num_hidden_layers"),
        (writer.add_head_count, "num_attention_heads"),
        (writer.add_head_count_kv, "num_key_value_heads"),
        (writer.add_rope_dimension_count, "head_dim"),
        (writer.add_key_length, "head_dim"),
        (writer.add_value_length, "head_dim"),
        (writer.add_rope_freq_base, "rope_theta"),
        (writer.add_layer_norm_rms_eps, "rms_norm_eps"),
    ]:
        add(config[key])
    names = {hf: ours for ours, hf in smollm2.NAMES.items()} | MORE_GGUF_NAMES
    tensors = shapes(config)
    for tensor, shape in tensors.items():
        layer = tensor.split(".")[2] if ".layers." in tensor else ""
        key = names[tensor.replace(f".layers.{layer}.", ".layers.{}.")].format(layer)
        if len(shape) == 1:
            writer.add_tensor_info(key, shape, np.dtype(np.float32), 4 * shape[0])
            continue
        size, kind = 2 * math.prod(shape), gguf.GGMLQuantizationType.BF16
        # The shape is that of the bytes.
        in_bytes = (*shape[:-1], 2 * shape[-1])
        writer.add_tensor_info(key, in_bytes, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape, parts in zip(tensors.values(), words(tensors), strict=True):
        data = np.concatenate(list(parts))
        writer.write_tensor_data(data.view(np.uint8) if len(shape) > 1 else np.ones(shape, "f4"))
    writer.close()
