"""The config and the tensor names of a GGUF file.

Keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's
`gguf-py/gguf/constants.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from pygpukit.llm.config import ModelConfig
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models import GGUF_FAMILIES, Gguf, find_family
from pygpukit.llm.rope import Rope, read_rope

__all__ = ["ROPE_FACTORS", "config_from_gguf"]

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor with a divisor for each rotary frequency: how GGUF writes Llama 3's scaling."""

_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
    "rope_theta": "rope.freq_base",
}

_IGNORED = frozenset({"rope.scaling.finetuned", "tensor_data_layout"})


def config_from_gguf(
    metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]], source: str
) -> ModelConfig:
    """Reads the config from a file's metadata and the shapes of its tensors.

    Whether there are biases, query/key norms and an output matrix of its own shows only in which
    tensors there are. Llama 3's frequency divisors are a tensor as well: the caller applies them
    (`Rope.divided`).

    Raises:
        ConfigError: A key is missing, malformed, not understood, or asks for what isn't supported.
    """
    family = find_family(GGUF_FAMILIES, metadata.get("general.architecture"), source)
    facts = dict(family.facts)
    keys = _architecture_keys(metadata, tensors, family, source)
    keys.expect("expert_count", 0)
    keys.expect("attention.value_length", keys.get("head_dim"))
    layers = keys.integer("num_hidden_layers")
    rope = None if "ropes" in facts else _read_rope(keys)
    facts["ropes"] = (rope,) * layers
    if "blk.0.attn_q_norm.weight" in tensors:
        facts.setdefault("qk_norm", "head")
    config = family.read_config(
        keys, architecture=family.architecture, **{**_biases(tensors), **facts}
    )
    window = keys.integer("sliding_window", 0, minimum=0)
    keys.finish(_IGNORED)
    return replace(config, windows=(window,) * config.num_layers)


def _architecture_keys(
    metadata: Mapping[str, object],
    tensors: Mapping[str, tuple[int, ...]],
    family: Gguf,
    source: str,
) -> Keys:
    """The keys `<architecture>.*`, with what a config.json has besides."""
    prefix = family.architecture + "."
    values: dict[str, object] = {
        key.removeprefix(prefix): metadata[key] for key in metadata if key.startswith(prefix)
    }
    values["bos_token_id"] = metadata.get("tokenizer.ggml.bos_token_id")
    ends = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom")]
    values["eos_token_id"] = [metadata[key] for key in ends if key in metadata]
    values["tie_word_embeddings"] = "output.weight" not in tensors
    if "token_embd.weight" in tensors:
        values.setdefault("vocab_size", tensors["token_embd.weight"][0])
    layer_norm = family.facts.get("norm_kind") == "layer"
    eps = "layer_norm_epsilon" if layer_norm else "layer_norm_rms_epsilon"
    return Keys(values, source, {**_KEYS, "rms_norm_eps": f"attention.{eps}"})


def _biases(tensors: Collection[str]) -> dict[str, bool]:
    return {
        "qkv_bias": any(f"blk.0.attn_{name}.bias" in tensors for name in ("q", "qkv")),
        "output_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _read_rope(keys: Keys) -> Rope:
    context = keys.integer("max_position_embeddings")
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    head_dim = keys.integer("head_dim", hidden // heads)
    rotary_dim = keys.integer("rope.dimension_count", head_dim)
    parameters: dict[str, object] = {
        "rope_theta": keys.number("rope_theta", 10000.0),
        "partial_rotary_factor": rotary_dim / head_dim,
    }
    factor = keys.optional_number("rope.scaling.factor")
    original = keys.optional_number("rope.scaling.original_context_length")
    scaling = keys.text("rope.scaling.type", "none")
    if scaling != "none":
        parameters |= {"rope_type": scaling, "factor": factor}
    if scaling == "yarn":
        parameters["original_max_position_embeddings"] = original
    elif factor not in (None, 0.0, 1.0) and scaling == "none":
        raise ConfigError(f"{keys.source}: rope.scaling.factor {factor} without a scaling type")
    return read_rope(
        Keys(parameters, f"{keys.source}, rope"), head_dim=head_dim, context_length=context
    )
