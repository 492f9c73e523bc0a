"""Gemma 1, 2 and 3 (text): scaled embeddings, norms stored without their 1, GELU in the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import (
    ModelConfig,
    read_attention_bias,
    read_decoder,
    read_ropes_by_window,
    read_windows,
    unscaled_within_windows,
)
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["GEMMA", "GEMMA2", "GEMMA3"]


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.expect("use_bidirectional_attention", False)
    keys.default("tie_word_embeddings", True)
    keys.default("head_dim", 256)
    return read_decoder(
        keys,
        architecture=architecture,
        norm_offset=1.0,
        embedding_scale=keys.integer("hidden_size") ** 0.5,
        **read_attention_bias(keys),
        **facts,
    )


def _gemma(keys: Keys) -> ModelConfig:
    # The first files say "gelu" and mean its approximation, which they came to name by another key.
    name = keys.text("hidden_activation", keys.text("hidden_act", "gelu"))
    exact = {"gelu": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
    facts = {"activation": exact[name]} if name in exact else {}
    return _read(keys, "gemma", **facts)


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """The converter has added the norms' 1; the scale of embeddings is the architecture's."""
    return replace(config, embedding_scale=config.hidden_size**0.5)


_GGUF_FACTS = {"activation": "gelu_tanh"}

GEMMA = Family(
    architecture="gemma",
    read_config=_gemma,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="gemma", facts=_GGUF_FACTS, adjust=_gguf),
)


def _capped(keys: Keys, *, full_period: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    return {
        "post_norm": True,
        "windows": read_windows(keys, default=4096, full_period=full_period),
        "attention_scale": keys.positive("query_pre_attn_scalar", 256.0) ** -0.5,
    }


def _soft_cap(keys: Keys, name: str, default: float) -> float:
    """Null is none, which isn't what an absent key means."""
    return keys.number(name, 0.0 if name in keys else default)


def _gemma2(keys: Keys) -> ModelConfig:
    keys.default("hidden_act", "gelu_pytorch_tanh")
    return _read(
        keys,
        "gemma2",
        **_capped(keys, full_period=2),
        attention_soft_cap=_soft_cap(keys, "attn_logit_softcapping", 50.0),
        logit_soft_cap=_soft_cap(keys, "final_logit_softcapping", 30.0),
    )


_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Of the one size whose scores are scaled by another width than that of a head."""


def _gguf_capped(config: ModelConfig, keys: Keys) -> ModelConfig:
    """As llama.cpp has it: the scale of the scores isn't in the file."""
    width = config.head_dim
    if config.num_layers == _LAYERS_OF_27B[config.architecture]:
        width = config.hidden_size // config.num_heads
    return replace(
        _gguf(config, keys),
        attention_scale=width**-0.5,
        attention_soft_cap=keys.number("attn_logit_softcapping", 0.0),
        logit_soft_cap=keys.number("final_logit_softcapping", 0.0),
    )


_GEMMA2_NAMES = renamed(
    LLAMA_NAMES,
    post_attention_norm="model.layers.{layer}.post_attention_layernorm",
    mlp_norm="model.layers.{layer}.pre_feedforward_layernorm",
    post_mlp_norm="model.layers.{layer}.post_feedforward_layernorm",
)

GEMMA2 = Family(
    architecture="gemma2",
    read_config=_gemma2,
    names=_GEMMA2_NAMES,
    config_keys={"hidden_act": "hidden_activation"},
    ignored_keys=frozenset({"cache_implementation", "hidden_act", "sliding_window_size"}),
    gguf=Gguf(
        architecture="gemma2",
        facts={**_GGUF_FACTS, "post_norm": True},
        full_period=2,
        adjust=_gguf_capped,
    ),
)


_GEMMA3_DEFAULTS = {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rope_theta": 1e6,
    "hidden_act": "gelu_pytorch_tanh",
}
"""What files leave out where the model is part of another, all the way to the shape."""


def _gemma3(keys: Keys) -> ModelConfig:
    for key, value in _GEMMA3_DEFAULTS.items():
        keys.default(key, value)
    period = keys.integer("sliding_window_pattern", keys.integer("_sliding_window_pattern", 6))
    facts = _capped(keys, full_period=period)
    local_theta = keys.number("rope_local_base_freq", 10000.0)
    # Taken over from Gemma 2's files; the model doesn't have it.
    keys.optional_number("attn_logit_softcapping")
    return _read(
        keys,
        "gemma3_text",
        qk_norm="head",
        ropes=read_ropes_by_window(keys, facts["windows"], local_theta=local_theta),
        **facts,
        logit_soft_cap=_soft_cap(keys, "final_logit_softcapping", 0.0),
    )


def _gguf3(config: ModelConfig, keys: Keys) -> ModelConfig:
    theta = keys.number("rope.freq_base_swa", 10000.0)
    return unscaled_within_windows(_gguf_capped(config, keys), theta)


GEMMA3 = Family(
    architecture="gemma3_text",
    read_config=_gemma3,
    names=_GEMMA2_NAMES,
    config_keys={"hidden_act": "hidden_activation"},
    ignored_keys=frozenset({"cache_implementation", "hidden_act"}),
    gguf=Gguf(
        architecture="gemma3",
        facts={**_GGUF_FACTS, "post_norm": True},
        full_period=6,
        adjust=_gguf3,
    ),
)
