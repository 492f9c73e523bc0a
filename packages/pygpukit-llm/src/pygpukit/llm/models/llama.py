"""Llama 2 and 3, SmolLM2 and their many kin; Mistral and Mixtral; SmolLM3."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import (
    Experts,
    ModelConfig,
    QueryGrowth,
    read_attention_bias,
    read_decoder,
    read_layer_types,
    read_rope_keys,
)
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import GGUF_LLAMA_NAMES, LLAMA_NAMES, renamed

__all__ = ["LLAMA", "MINISTRAL", "MINISTRAL3", "MISTRAL", "MIXTRAL", "SMOLLM3"]


def _llama(keys: Keys) -> ModelConfig:
    keys.expect("rope_interleaved", False)
    return read_decoder(
        keys,
        architecture="llama",
        **read_attention_bias(keys),
        mlp_bias=keys.boolean("mlp_bias", False),
    )


LLAMA = Family(
    architecture="llama",
    read_config=_llama,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"is_llama_config"}),
    gguf=Gguf(architecture="llama", names=GGUF_LLAMA_NAMES),
)


def _mistral(keys: Keys) -> ModelConfig:
    window = 4096 if "sliding_window" not in keys else keys.optional_integer("sliding_window")
    config = read_decoder(keys, architecture="mistral")
    return replace(config, windows=(window or 0,) * config.num_layers)


MISTRAL = Family(architecture="mistral", read_config=_mistral, names=LLAMA_NAMES)


def _ministral3(keys: Keys) -> ModelConfig:
    """Beyond the length that it was first trained with, queries grow with their positions."""
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    older = keys.get("rope_parameters") is None
    parameters = keys.nested("rope_scaling" if older else "rope_parameters", {})
    growth = QueryGrowth(
        parameters.integer("original_max_position_embeddings"),
        parameters.number("llama_4_scaling_beta"),
    )
    layers, context = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
    about_queries = ("llama_4_scaling_beta", "max_position_embeddings")
    rope = read_rope_keys(keys, keys.integer("head_dim"), context, ignored=about_queries)
    return read_decoder(
        keys,
        architecture="ministral3",
        query_growth=growth,
        ropes=(rope,) * layers,
        windows=(keys.integer("sliding_window", 0),) * layers,
    )


def _ministral3_gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Other models of the architecture have no such growth."""
    rate = keys.number("attention.temperature_scale", 0.0)
    if not rate:
        return config
    length = keys.integer("rope.scaling.original_context_length")
    return replace(config, query_growth=QueryGrowth(length, rate))


MINISTRAL3 = Family(
    architecture="ministral3",
    read_config=_ministral3,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="mistral3", names=GGUF_LLAMA_NAMES, adjust=_ministral3_gguf),
)


def _ministral(keys: Keys) -> ModelConfig:
    config = replace(_mistral(keys), architecture="ministral")
    types = read_layer_types(keys, config.num_layers)
    if types is None:
        return config
    windows = zip(types, config.windows, strict=True)
    return replace(config, windows=tuple(window if sliding else 0 for sliding, window in windows))


MINISTRAL = Family(architecture="ministral", read_config=_ministral, names=LLAMA_NAMES)


def _mixtral(keys: Keys) -> ModelConfig:
    keys.default("rope_theta", 1e6)
    keys.default("rms_norm_eps", 1e-5)
    config = read_decoder(keys, architecture="mixtral")
    keys.rename("num_experts", "num_local_experts")
    experts = Experts(
        count=keys.integer("num_local_experts", 8),
        chosen=keys.integer("num_experts_per_tok", 2),
        intermediate_size=config.intermediate_size,
    )
    return replace(
        config,
        experts=experts,
        sparse=(True,) * config.num_layers,
        windows=(keys.integer("sliding_window", 0),) * config.num_layers,
    )


_EXPERT = "model.layers.{layer}.block_sparse_moe.experts.{expert}."

MIXTRAL = Family(
    architecture="mixtral",
    read_config=_mixtral,
    names=renamed(
        LLAMA_NAMES,
        router="model.layers.{layer}.block_sparse_moe.gate",
        experts_up=f"{_EXPERT}w1 {_EXPERT}w3",
        experts_down=f"{_EXPERT}w2",
    ),
    ignored_keys=frozenset({
        "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
    }),
)  # fmt: skip


def _smollm3(keys: Keys) -> ModelConfig:
    keys.default("rope_theta", 2e6)
    keys.default("tie_word_embeddings", True)
    keys.default("num_key_value_heads", 4)
    config = read_decoder(
        keys,
        architecture="smollm3",
        **read_attention_bias(keys),
        mlp_bias=keys.boolean("mlp_bias", False),
    )
    interval = keys.integer("no_rope_layer_interval", 4)
    rotated = keys.integers("no_rope_layers")
    if rotated is None:
        rotated = [(layer + 1) % interval for layer in range(config.num_layers)]
    if len(rotated) < config.num_layers:
        raise ConfigError(
            f"{keys.source}: key 'no_rope_layers' must have a number for each of the "
            f"{config.num_layers} layers, found {len(rotated)}"
        )
    window = keys.integer("sliding_window", 0)
    used = keys.boolean("use_sliding_window", False)
    keys.integer("max_window_layers", 0, minimum=0)
    types = read_layer_types(keys, config.num_layers)
    if types is None:
        types = tuple(used and not rotates for rotates in rotated[: config.num_layers])
    return replace(
        config,
        ropes=tuple(
            rope if rotates else None for rope, rotates in zip(config.ropes, rotated, strict=False)
        ),
        windows=tuple(window if sliding else 0 for sliding in types),
    )


def _smollm3_gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Every fourth layer isn't rotated, which the file leaves to the architecture."""
    ropes = (rope if (layer + 1) % 4 else None for layer, rope in enumerate(config.ropes))
    return replace(config, ropes=tuple(ropes))


SMOLLM3 = Family(
    architecture="smollm3",
    read_config=_smollm3,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"rope_interleaved"}),
    gguf=Gguf(architecture="smollm3", names=GGUF_LLAMA_NAMES, adjust=_smollm3_gguf),
)
