"""GGUF files of reference models, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mxfp4
import numpy as np
import numpy.typing as npt
from pygpukit.core import load_safetensors

Array = npt.NDArray[np.float32]
Tensors = dict[str, tuple[int, Array]]

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, Q4_0, Q4_1, Q8_0, BF16, MXFP4, NVFP4 = 0, 2, 3, 8, 30, 39, 40
BLOCK = 32


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


def in_blocks(kind: int, array: Array) -> tuple[bytes, Array]:
    """Numbers as ggml's blocks of 32, and what they have become (`quantize_row_q8_0_ref` etc.)."""
    x = array.reshape(-1, BLOCK)
    low = np.zeros((len(x), 1), np.float32)
    if kind == Q8_0:
        scale = np.abs(x).max(1, keepdims=True) / 127
    elif kind == Q4_0:
        largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
        scale, low = largest / -8, largest
    else:
        low = x.min(1, keepdims=True)
        scale = (x.max(1, keepdims=True) - low) / 15
    halves = scale.astype(np.float16), low.astype(np.float16)
    d, m = (half.astype(np.float32) for half in halves)
    q = np.rint((x - low) / np.where(scale == 0, 1, scale))
    if kind == Q8_0:
        parts = [halves[0].view(np.uint8), q.astype(np.int8).view(np.uint8)]
        numbers = q * d
    else:
        q = np.clip(q, 0, 15)
        nibbles = q.astype(np.uint8)
        packed = nibbles[:, : BLOCK // 2] | nibbles[:, BLOCK // 2 :] << 4
        shared = halves[:1] if kind == Q4_0 else halves
        parts = [*(half.view(np.uint8) for half in shared), packed]
        numbers = (q - 8) * d if kind == Q4_0 else q * d + m
    numbers = numbers.astype(np.float32).reshape(array.shape)
    return np.concatenate(parts, axis=1).tobytes(), numbers


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
        elif kind == MXFP4:
            data += mxfp4.ggml(*mxfp4.encode(array)).tobytes()
        elif kind in (Q4_0, Q4_1, Q8_0):
            data += in_blocks(kind, array)[0]
        else:
            data += array.tobytes()
        data += b"\0" * (-len(data) % 32)
    # A file of that name may still be mapped, by a model that is being loaded.
    file.unlink(missing_ok=True)
    file.write_bytes(head + b"\0" * (-len(head) % 32) + data)


ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "cohere": "command-r",
    "granitemoeshared": "granitemoe",
    "ministral3": "mistral3",
    "ernie4_5_moe": "ernie4_5-moe",
    "qwen2_moe": "qwen2moe",
    "phi": "phi2",
    "glm": "chatglm",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "youtu": "deepseek2",
    "olmo3": "olmo2",
    "hunyuan_v1_dense": "hunyuan-dense",
    "gpt_oss": "gpt-oss",
}
"""Where they aren't called as in config.json."""

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.k_b_proj": "attn_k_b",
    "self_attn.v_b_proj": "attn_v_b",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.correction": "exp_probs_b",
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "shared_mlp.output_linear": "ffn_down_shexp",
    "mlp.moe_statics": "exp_probs_b",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "model.final_layernorm": "output_norm",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
EXPERTS = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
HALVES = {
    "block_sparse_moe.input_linear": ("ffn_gate_exps", "ffn_up_exps"),
    "shared_mlp.input_linear": ("ffn_gate_shexp", "ffn_up_shexp"),
}
"""What is in two."""
NORMS_BEHIND = ("gemma2", "gemma3", "olmo2", "exaone4", "seed_oss", "glm4moe", "gpt-oss")
PERMUTED = ("llama", "granite", "granitemoe", "smollm3", "arcee", "mistral3")
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
LAYER_NORM = ("gpt2", "gptneox", "starcoder2", "command-r", "cohere2", "stablelm", "phi2")


def interleaved(rows: Array, head_dim: int) -> Array:
    """The order of rows that the converter gives to queries and keys of Llama's kin."""
    split = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def by_part(rows: Array, head_dim: int) -> Array:
    """GPT-NeoX's rows, of which each head has query, key and value together, part by part."""
    split = rows.reshape(-1, 3, head_dim, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(0, 1).reshape(rows.shape))


def converted(folder: Path) -> tuple[dict[str, object], Tensors]:
    """Metadata and tensors of a reference model."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES.get(config["model_type"], config["model_type"])
    stored = load_safetensors(folder / "model.safetensors")
    arrays = {name: np.array(view.cast("float32").numpy()) for name, view in stored.items()}
    if architecture == "deepseek2":  # minicpm3 has both together
        arrays = _split_by_head(arrays, config)
    own = _own_tensors(arrays) if architecture == "gpt-oss" else {}
    tensors = own | _tensors(arrays, architecture, head_dim(config)) | _factors(config)
    return _metadata(architecture, config), tensors


def _split_by_head(arrays: Mapping[str, Array], config: Mapping[str, Any]) -> dict[str, Array]:
    """A matrix for each head, keys and values apart, those of keys turned."""
    split = dict(arrays)
    for key in [key for key in arrays if key.endswith("kv_b_proj.weight")]:
        rows = split.pop(key)
        heads = rows.reshape(config["num_attention_heads"], -1, rows.shape[1])
        ups = np.split(heads, [config["qk_nope_head_dim"]], axis=1)
        split[key.replace("kv_b_proj", "k_b_proj")] = np.ascontiguousarray(ups[0].swapaxes(1, 2))
        split[key.replace("kv_b_proj", "v_b_proj")] = np.ascontiguousarray(ups[1])
    return split


def _own_tensors(arrays: dict[str, Array]) -> Tensors:
    """What is taken out of gpt-oss's: sinks and experts, gates and others apart."""
    tensors: Tensors = {}
    for key in [key for key in arrays if ".experts." in key or key.endswith(".sinks")]:
        array, layer = arrays.pop(key), key.split(".")[2]
        if key.endswith(".sinks"):
            tensors[f"blk.{layer}.attn_sinks.weight"] = (F32, array)
            continue
        is_bias = key.endswith("_bias")
        rows = array if is_bias else np.ascontiguousarray(array.swapaxes(1, 2))
        kind = (".bias", F32) if is_bias else (".weight", BF16)
        parts = {"ffn_down_exps": rows}
        if "gate_up_proj" in key:
            parts = {"ffn_gate_exps": rows[:, ::2], "ffn_up_exps": rows[:, 1::2]}
        for name, part in parts.items():
            tensors[f"blk.{layer}.{name}{kind[0]}"] = (kind[1], np.ascontiguousarray(part))
    return tensors


def head_dim(config: Mapping[str, Any]) -> int:
    hidden = config.get("hidden_size", config.get("n_embd"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    return int(config.get("head_dim") or hidden // heads)


def _tensors(arrays: Mapping[str, Array], architecture: str, width: int) -> Tensors:
    experts: dict[str, list[Array]] = {}
    tensors = {}
    for key, array in arrays.items():
        _, _, part = key.removesuffix(".weight").removeprefix("model.layers.").partition(".")
        if part in HALVES:
            layer = key.removeprefix("model.layers.").partition(".")[0]
            for name, half in zip(HALVES[part], np.split(array, 2, axis=-2), strict=True):
                tensors[f"blk.{layer}.{name}.weight"] = (BF16, np.ascontiguousarray(half))
            continue
        new = _name(key, architecture)
        if ".experts." in key:
            experts.setdefault(new, []).append(array)
            continue
        if architecture == "gpt2" and new.endswith(TRANSPOSED):
            array = np.ascontiguousarray(array.T)
        if architecture in PERMUTED and ("attn_q." in new or "attn_k." in new):
            array = interleaved(array, width)
        if architecture == "gptneox" and "attn_qkv." in new:
            array = by_part(array, width)
        if architecture.startswith("gemma") and "norm" in new:
            array = array + 1
        if "ffn_gate_inp_shexp" in new or "exp_probs_b" in new:
            array = array.reshape(-1)
        # The converter keeps vectors and norms in float32.
        tensors[new] = (F32 if array.ndim == 1 or "norm" in new else BF16, array)
    return tensors | {name: (BF16, np.stack(arrays)) for name, arrays in experts.items()}


def _name(key: str, architecture: str) -> str:
    key = key.replace("gate.e_score_correction_bias", "correction.bias")
    stem, kind = key.replace("e_score_correction_bias", "bias").rsplit(".", 1)
    _, layers, rest = stem.partition(".layers." if ".layers." in stem else ".h.")
    if not layers:
        return f"{NAMES[stem]}.{kind}"
    layer, _, part = rest.partition(".")
    if ".experts." in part:
        return f"blk.{layer}.{EXPERTS[part.rpartition('.')[2]]}.{kind}"
    name = NAMES[part]
    if part == "post_attention_layernorm" and architecture in NORMS_BEHIND:
        name = "post_attention_norm"
    return f"blk.{layer}.{name}.{kind}"


def _factors(config: Mapping[str, Any]) -> Tensors:
    rope = config.get("rope_parameters") or {}
    return {
        f"rope_factors_{length}.weight": (F32, np.array(rope[f"{length}_factor"], np.float32))
        for length in ("short", "long")
        if f"{length}_factor" in rope
    }


def _metadata(architecture: str, config: dict[str, Any]) -> dict[str, object]:
    heads = config.get("num_attention_heads", config.get("n_head"))
    keys: dict[str, object] = {
        "context_length": config.get("max_position_embeddings", config.get("n_positions")),
        "embedding_length": config.get("hidden_size", config.get("n_embd")),
        "block_count": config.get("num_hidden_layers", config.get("n_layer")),
        "feed_forward_length": config.get("intermediate_size", 256),
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
    }
    eps_names = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
    eps = next(config[name] for name in eps_names if name in config)
    kind = "layer_norm_epsilon" if architecture in LAYER_NORM else "layer_norm_rms_epsilon"
    keys[f"attention.{kind}"] = eps
    if architecture != "gpt2":
        keys |= _rope(architecture, config)
    keys |= OWN_KEYS.get(architecture, lambda config: {})(config)
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


def _rope(architecture: str, config: Mapping[str, Any]) -> dict[str, object]:
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    width = head_dim(config)
    keys: dict[str, object] = {
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(width * rope.get("partial_rotary_factor", 1.0)),
    }
    if rope.get("rope_type") == "longrope":
        original = config["original_max_position_embeddings"]
        factor = config["max_position_embeddings"] / original
        keys["rope.scaling.original_context_length"] = original
        keys["rope.scaling.attn_factor"] = (1 + np.log(factor) / np.log(original)) ** 0.5
    if rope.get("rope_type") == "yarn":
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    return keys


def _window(config: Mapping[str, Any]) -> dict[str, object]:
    return {"attention.sliding_window": config.get("sliding_window") or 0}


def _experts(config: Mapping[str, Any]) -> dict[str, object]:
    counts = ("num_local_experts", "num_experts", "moe_num_experts", "n_routed_experts")
    count = next((config[name] for name in counts if name in config), None)
    if count is None:
        return {}
    keys = {
        "expert_count": count,
        "expert_used_count": config.get("num_experts_per_tok", config.get("moe_k")),
    }
    if "moe_intermediate_size" in config:
        keys["expert_feed_forward_length"] = config["moe_intermediate_size"]
    return keys


def _experts_in_groups(config: Mapping[str, Any]) -> dict[str, object]:
    if "n_routed_experts" not in config:
        return {"leading_dense_block_count": config["num_hidden_layers"]}
    return _experts(config) | {
        "leading_dense_block_count": config.get("first_k_dense_replace", 0),
        "expert_shared_count": config["n_shared_experts"],
        "expert_group_count": config["n_group"] or 1,
        "expert_group_used_count": config["topk_group"] or 1,
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": config["norm_topk_prob"],
    }


def _latent(config: Mapping[str, Any]) -> dict[str, object]:
    """The plain lengths are those of attention from the narrow vector, which one head has."""
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    ranks = {"attention.kv_lora_rank": rank}
    if config["q_lora_rank"] is not None:
        ranks["attention.q_lora_rank"] = config["q_lora_rank"]
    rope = config["rope_parameters"]
    every = (
        {"rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]}
        if ("mscale_all_dim" in rope)
        else {}
    )
    return {
        **ranks,
        **every,
        **_experts_in_groups(config),
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rotated,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + rotated,
        "attention.value_length_mla": config["v_head_dim"],
        "rope.dimension_count": rotated,
        "vocab_size": config["vocab_size"],
    }


def _multipliers(config: Mapping[str, Any]) -> dict[str, object]:
    return {
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


OWN_KEYS: dict[str, Callable[[Mapping[str, Any]], dict[str, object]]] = {
    "llama": lambda config: _window(config) | _experts(config),
    "qwen3moe": _experts,
    "qwen2moe": lambda config: {
        **_experts(config),
        "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
    },
    "olmoe": _experts,
    "gpt-oss": lambda config: {
        **_experts(config),
        **_window(config),
        "expert_feed_forward_length": config["intermediate_size"],
    },
    "ernie4_5-moe": lambda config: {
        **_experts(config),
        "expert_shared_count": config["moe_num_shared_experts"],
        "leading_dense_block_count": config["moe_layer_start_index"],
        "interleave_moe_layer_step": config["moe_layer_interval"],
        "expert_shared_feed_forward_length": config["moe_intermediate_size"],
    },
    "mistral3": lambda config: {
        "rope.scaling.yarn_log_multiplier": config["rope_parameters"]["mscale_all_dim"],
        "attention.temperature_scale": config["rope_parameters"]["llama_4_scaling_beta"],
    },
    "granitemoe": lambda config: {
        **_experts(config),
        **_multipliers(config),
        "expert_shared_feed_forward_length": config.get("shared_intermediate_size", 0),
    },
    "stablelm": lambda config: {"use_parallel_residual": config["use_parallel_residual"]},
    "exaone4": lambda config: (
        {
            **_window(config),
            "attention.sliding_window_pattern": [
                type_ == "sliding_attention" for type_ in config["layer_types"]
            ],
        }
        if config["sliding_window"]
        else {}
    ),
    "gemma2": lambda config: {
        **_window(config),
        "attn_logit_softcapping": config["attn_logit_softcapping"],
        "final_logit_softcapping": config["final_logit_softcapping"],
    },
    "gemma3": _window,
    "deepseek2": _latent,
    "minicpm3": lambda config: {
        "attention.kv_lora_rank": config["kv_lora_rank"],
        "attention.q_lora_rank": config["q_lora_rank"],
        "attention.key_length": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
        "attention.value_length": config["v_head_dim"],
        "rope.dimension_count": config["qk_rope_head_dim"],
        "vocab_size": config["vocab_size"],
    },
    "glm4moe": lambda config: _experts_in_groups(config) | {"expert_gating_func": 2},
    "olmo2": lambda config: (
        {
            **_window(config),
            "attention.sliding_window_pattern": [
                type_ == "sliding_attention" for type_ in config["layer_types"]
            ],
            "rope.freq_base_swa": config["rope_parameters"]["sliding_attention"]["rope_theta"],
        }
        if config.get("sliding_window")
        else {}
    ),
    "phi3": _window,
    "cohere2": lambda config: {**_window(config), "logit_scale": config["logit_scale"]},
    "command-r": lambda config: {
        "logit_scale": config["logit_scale"],
        "rope.scaling.type": "none",
    },
    "gptneox": lambda config: {"use_parallel_residual": config["use_parallel_residual"]},
    "granite": _multipliers,
}
