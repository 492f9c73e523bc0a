"""Qwen2 and 2.5 (biases on query, key and value), Qwen3 (both normalised), each with experts."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import (
    Experts,
    ModelConfig,
    read_attention_bias,
    read_decoder,
    read_layer_types,
)
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["QWEN2", "QWEN2_MOE", "QWEN3", "QWEN3_MOE"]


def _windows(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """A window for the layers from `max_window_layers` on, or for those that `layer_types` says."""
    window = keys.integer("sliding_window", 4096, minimum=0)
    first = keys.integer("max_window_layers", 28, minimum=0)
    used = keys.boolean("use_sliding_window", False)
    types = read_layer_types(keys, num_layers)
    if types is None:
        types = tuple(used and layer >= first for layer in range(num_layers))
    if any(types) and not used:
        raise ConfigError(f"{keys.source}: layer_types slide, but use_sliding_window is false")
    return tuple(window if sliding else 0 for sliding in types)


def _qwen2(keys: Keys) -> ModelConfig:
    keys.expect("use_mrope", False)
    config = read_decoder(keys, architecture="qwen2", qkv_bias=True)
    return replace(config, windows=_windows(keys, config.num_layers))


QWEN2 = Family(
    architecture="qwen2",
    read_config=_qwen2,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="qwen2"),
)


def _sparse(keys: Keys, num_layers: int) -> tuple[bool, ...]:
    """The layers that have experts."""
    step = keys.integer("decoder_sparse_step", 1)
    dense = keys.integers("mlp_only_layers") or ()
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers))


def _qwen2_moe(keys: Keys) -> ModelConfig:
    config = read_decoder(keys, architecture="qwen2_moe", qkv_bias=keys.boolean("qkv_bias", True))
    keys.rename("num_experts", "num_local_experts")
    experts = Experts(
        count=keys.integer("num_local_experts", 60),
        chosen=keys.integer("num_experts_per_tok", 4),
        intermediate_size=keys.integer("moe_intermediate_size", 1408),
        normalized=keys.boolean("norm_topk_prob", False),
        shared_size=keys.integer("shared_expert_intermediate_size", 5632),
        shared_gated=True,
    )
    layers = config.num_layers
    return replace(
        config, experts=experts, sparse=_sparse(keys, layers), windows=_windows(keys, layers)
    )


_SHARED = "model.layers.{layer}.mlp.shared_expert."
_ABOUT_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef"})

QWEN2_MOE = Family(
    architecture="qwen2_moe",
    read_config=_qwen2_moe,
    names=renamed(
        LLAMA_NAMES,
        shared_up=f"{_SHARED}gate_proj {_SHARED}up_proj",
        shared_down=f"{_SHARED}down_proj",
        shared_gate="model.layers.{layer}.mlp.shared_expert_gate",
    ),
    ignored_keys=_ABOUT_TRAINING,
    gguf=Gguf(architecture="qwen2moe", normalized=False),
)


def _with_normalised_heads(keys: Keys, architecture: str) -> ModelConfig:
    return read_decoder(
        keys, architecture=architecture, **read_attention_bias(keys), qk_norm="head"
    )


def _qwen3(keys: Keys) -> ModelConfig:
    config = _with_normalised_heads(keys, "qwen3")
    return replace(config, windows=_windows(keys, config.num_layers))


QWEN3 = Family(
    architecture="qwen3",
    read_config=_qwen3,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="qwen3"),
)


def _qwen3_moe(keys: Keys) -> ModelConfig:
    config = _with_normalised_heads(keys, "qwen3_moe")
    keys.rename("num_experts", "num_local_experts")
    experts = Experts(
        count=keys.integer("num_local_experts", 128),
        chosen=keys.integer("num_experts_per_tok", 8),
        intermediate_size=keys.integer("moe_intermediate_size", 768),
        normalized=keys.boolean("norm_topk_prob", False),
    )
    # Unlike in the dense family, the window is for all layers: no number of layers goes without.
    keys.integer("max_window_layers", 0, minimum=0)
    slides = keys.boolean("use_sliding_window", False)
    window = keys.integer("sliding_window", 4096) if slides else 0
    keys.get("sliding_window")
    return replace(
        config,
        experts=experts,
        sparse=_sparse(keys, config.num_layers),
        windows=(window,) * config.num_layers,
    )


QWEN3_MOE = Family(
    architecture="qwen3_moe",
    read_config=_qwen3_moe,
    names=LLAMA_NAMES,
    ignored_keys=_ABOUT_TRAINING,
    gguf=Gguf(architecture="qwen3moe"),
)
