"""The config and the tensor names of a GGUF file.

Keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's
`gguf-py/gguf/constants.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pygpukit.llm.config import Experts, Latent, ModelConfig, read_decoder
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models import GGUF_FAMILIES, Gguf, find_family
from pygpukit.llm.models.names import Names
from pygpukit.llm.rope import Rope, read_rope

__all__ = ["ROPE_FACTORS", "config_from_gguf", "names_in_gguf"]

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors with a divisor for each rotary frequency: Llama 3's scaling, and LongRoPE's two."""

Shapes = Mapping[str, tuple[int, ...]]

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

_SOFTMAX, _SIGMOID = 1, 2
"""What scores experts (`enum llama_expert_gating_func_type`)."""

_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
"""Keys that some files have for each layer, which is supported where those are the same."""

_IGNORED = frozenset({
    "expert_shared_count", "expert_shared_feed_forward_length", "interleave_moe_layer_step",
    "leading_dense_block_count", "n_deepstack_layers", "rope.dimension_sections",
    "rope.scaling.finetuned", "shared_norm", "tensor_data_layout",
})  # fmt: skip
"""Keys that change nothing for the architectures that are supported."""


def config_from_gguf(
    metadata: Mapping[str, object],
    tensors: Shapes,
    factors: Mapping[str, list[float]],
    source: str,
) -> ModelConfig:
    """Reads the config from a file's metadata and the shapes of its tensors.

    Whether there are biases, query/key norms and an output matrix of its own shows only in which
    tensors there are.

    Args:
        metadata: The file's.
        tensors: Shapes by name.
        factors: What the tensors of `ROPE_FACTORS` hold, as far as there are any.
        source: What error messages call the file.

    Raises:
        ConfigError: A key is missing, malformed, not understood, or asks for what isn't supported.
    """
    family = find_family(GGUF_FAMILIES, metadata.get("general.architecture"), source)
    keys = _architecture_keys(metadata, tensors, family, source)
    keys.expect("attention.causal", True)
    layers = keys.integer("num_hidden_layers")
    rope = _read_rope(keys, factors, family) if family.rotated else None
    facts: dict[str, Any] = {**_biases(tensors), **_attention(keys, tensors, rope), **family.facts}
    facts["windows"] = _windows(keys, layers, family.full_period)
    facts["ropes"] = (rope,) * layers
    if "blk.0.attn_q_norm.weight" in tensors:
        facts["qk_norm"] = family.qk_norm
    config = read_decoder(keys, architecture=family.architecture, **facts)
    config = _with_experts(config, keys, tensors, family)
    if family.adjust is not None:
        config = family.adjust(config, keys)
    keys.finish(_IGNORED)
    return config


def names_in_gguf(metadata: Mapping[str, object], config: ModelConfig) -> Names:
    """What the file calls the tensors of a model of that config.

    Layers behind those of the config predict the token after the next.
    """
    names = GGUF_FAMILIES[config.architecture].names
    more = metadata.get(f"{config.architecture}.nextn_predict_layers")
    behind = range(config.num_layers, config.num_layers + more) if isinstance(more, int) else ()
    return replace(names, ignored=(*names.ignored, *(rf"blk\.{layer}\..*" for layer in behind)))


def _attention(keys: Keys, tensors: Shapes, rope: Rope | None) -> dict[str, Any]:
    """The fields of a latent attention, where there is one."""
    rank = keys.optional_integer("attention.kv_lora_rank")
    if rank is None or rope is None:
        keys.expect("attention.value_length", keys.get("head_dim"))
        return {}
    heads = keys.integer("num_attention_heads")
    # The plain lengths are those of the narrow vectors in newer files, and of the heads in others.
    width = keys.integer("attention.key_length_mla", keys.integer("head_dim"))
    value = keys.integer("attention.value_length", 0, minimum=0)
    if not value:
        value = tensors.get("blk.0.attn_output.weight", (0, 0))[1] // heads
    latent = Latent(
        kv_rank=rank,
        q_rank=keys.optional_integer("attention.q_lora_rank"),
        rotated=rope.rotary_dim,
        plain=width - rope.rotary_dim,
        value=keys.integer("attention.value_length_mla", value),
    )
    return {
        "latent": latent,
        "head_dim": latent.cached,
        "num_kv_heads": heads,
        "attention_scale": latent.width**-0.5 * rope.magnitude**2,
    }


def _windows(keys: Keys, layers: int, full_period: int | None) -> tuple[int, ...]:
    """Windows of all layers, but for those that a pattern or the architecture has without one."""
    window = keys.integer("sliding_window", 0, minimum=0)
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers:
        return tuple(window if slides else 0 for slides in pattern)
    if pattern is not None:
        full_period = keys.integer("attention.sliding_window_pattern")
    return tuple(
        window if full_period is None or (layer + 1) % full_period else 0 for layer in range(layers)
    )


def _with_experts(config: ModelConfig, keys: Keys, tensors: Shapes, family: Gguf) -> ModelConfig:
    count = keys.integer("expert_count", 0, minimum=0)
    gating = keys.integer("expert_gating_func", _SOFTMAX)
    if gating not in (_SOFTMAX, _SIGMOID):
        raise ConfigError(
            f"{keys.source}: key 'expert_gating_func': {gating} isn't supported; supported are "
            f"{_SOFTMAX}, the softmax, and {_SIGMOID}, the sigmoid"
        )
    chosen = keys.integer("expert_used_count", 0, minimum=0)
    inner = keys.integer("expert_feed_forward_length", config.intermediate_size)
    normalized = keys.boolean("expert_weights_norm", family.normalized)
    scale = keys.number("expert_weights_scale", 1.0)
    groups = keys.integer("expert_group_count", 0, minimum=0)
    top_groups = keys.integer("expert_group_used_count", 0, minimum=0)
    if not count:
        return config
    sparse = tuple(
        f"blk.{layer}.ffn_gate_inp.weight" in tensors for layer in range(config.num_layers)
    )
    if not any(sparse) and keys.integer("leading_dense_block_count", 0) >= config.num_layers:
        return config
    if not any(sparse) or not chosen:
        raise ConfigError(
            f"{keys.source}: key 'expert_count' is {count}, but no layer has experts (no "
            f"blk.*.ffn_gate_inp.weight), or 'expert_used_count' is missing"
        )
    layer = sparse.index(True)
    shared = tensors.get(f"blk.{layer}.ffn_up_shexp.weight")
    experts = Experts(
        count=count,
        chosen=chosen,
        intermediate_size=inner,
        normalized=normalized,
        scale=scale,
        shared_size=0 if shared is None else shared[0],
        sigmoid=gating == _SIGMOID,
        groups=groups or 1,
        top_groups=top_groups or 1,
        corrected=f"blk.{layer}.exp_probs_b.bias" in tensors,
        biased=f"blk.{layer}.ffn_gate_inp.bias" in tensors,
        shared_gated=f"blk.{layer}.ffn_gate_inp_shexp.weight" in tensors,
    )
    return replace(config, experts=experts, sparse=sparse)


def _architecture_keys(
    metadata: Mapping[str, object],
    tensors: Shapes,
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
    for key in _PER_LAYER:
        value = values.get(key)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            values[key] = value[0]
    blocks, predicting = values.get("block_count"), values.pop("nextn_predict_layers", 0)
    if isinstance(blocks, int) and isinstance(predicting, int):
        values["block_count"] = blocks - predicting
    values["shared_norm"] = "blk.0.ffn_norm.weight" not in tensors
    if "token_embd.weight" in tensors:
        values.setdefault("vocab_size", tensors["token_embd.weight"][0])
    layer_norm = family.facts.get("norm_kind") == "layer"
    eps = "layer_norm_epsilon" if layer_norm else "layer_norm_rms_epsilon"
    return Keys(values, source, {**_KEYS, "rms_norm_eps": f"attention.{eps}"})


def _biases(tensors: Collection[str]) -> dict[str, bool]:
    return {
        "qkv_bias": any(f"blk.0.attn_{name}.bias" in tensors for name in ("q", "qkv", "kv_a_mqa")),
        "output_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "head_bias": "output.bias" in tensors,
    }


def _read_rope(keys: Keys, factors: Mapping[str, list[float]], family: Gguf) -> Rope:
    context = keys.integer("max_position_embeddings")
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    head_dim = keys.integer("head_dim", hidden // heads)
    rotary_dim = keys.integer("rope.dimension_count", head_dim)
    if rotary_dim > head_dim:
        raise ConfigError(
            f"{keys.source}: rope.dimension_count {rotary_dim} exceeds the head dimension, "
            f"{head_dim}"
        )
    parameters: dict[str, object] = {
        "rope_theta": keys.number("rope_theta", 10000.0),
        **_scaling(keys, factors, family),
    }
    rope = read_rope(
        Keys(parameters, f"{keys.source}, rope"),
        head_dim=rotary_dim,
        context_length=context,
        original=keys.optional_integer("rope.scaling.original_context_length"),
    )
    divisors = factors.get(ROPE_FACTORS[0])
    return rope if divisors is None else rope.divided(divisors)


def _scaling(keys: Keys, factors: Mapping[str, list[float]], family: Gguf) -> dict[str, object]:
    """The scaling in transformers' terms."""
    factor = keys.optional_number("rope.scaling.factor")
    attention = keys.optional_number("rope.scaling.attn_factor")
    scaling = keys.text("rope.scaling.type", "none")
    if ROPE_FACTORS[1] in factors:
        short, long = factors[ROPE_FACTORS[1]], factors.get(ROPE_FACTORS[2])
        return {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long or short,
            "attention_factor": 1.0 if attention is None else attention,
        }
    if scaling == "none":
        if factor not in (None, 0.0, 1.0):
            raise ConfigError(f"{keys.source}: rope.scaling.factor {factor} without a scaling type")
        return {}
    return {"rope_type": scaling, "factor": factor} | (
        _yarn(keys, family) if scaling == "yarn" else {}
    )


def _yarn(keys: Keys, family: Gguf) -> dict[str, object]:
    parameters: dict[str, object] = {
        name: keys.optional_number(f"rope.scaling.yarn_{name}")
        for name in ("beta_fast", "beta_slow")
    }
    parameters["truncate"] = family.yarn_truncated
    every = keys.optional_number("rope.scaling.yarn_log_multiplier")
    if every:
        # Only the architecture that has another unit takes the multiplier for both.
        unit = family.log_multiplier_unit
        parameters |= {"mscale": 1.0 if unit == 1 else every / unit, "mscale_all_dim": every / unit}
    keys.expect("rope.scaling.yarn_ext_factor", 1.0)
    keys.expect("rope.scaling.attn_factor", 1.0)
    # llama.cpp passes over the key; where it isn't 1, it is transformers' key of the same name.
    scale = keys.number("rope.scaling.yarn_attn_factor", 1.0)
    return parameters if scale == 1 else {**parameters, "attention_factor": scale}
