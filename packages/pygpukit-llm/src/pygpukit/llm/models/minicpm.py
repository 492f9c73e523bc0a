"""MiniCPM 3: latent attention as DeepSeek's, with multipliers."""

from __future__ import annotations

import math
from dataclasses import replace

from pygpukit.llm.config import ModelConfig
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.deepseek import GGUF_LATENT_NAMES, NAMES, read_latent
from pygpukit.llm.models.family import Family, Gguf

__all__ = ["MINICPM3"]

_DEFAULTS = {
    "kv_lora_rank": 256,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "scale_depth": 1.4,
    "dim_model_base": 256,
}


def _minicpm3(keys: Keys) -> ModelConfig:
    for key, value in _DEFAULTS.items():
        if key not in keys:  # null is something else
            keys.default(key, value)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("tie_word_embeddings", True)
    hidden, layers = keys.integer("hidden_size"), keys.integer("num_hidden_layers")
    keys.default("v_head_dim", hidden // keys.integer("num_attention_heads"))
    keys.expect("mlp_bias", False)
    return read_latent(
        keys,
        "minicpm3",
        embedding_scale=keys.number("scale_emb", 12),
        residual_scale=keys.number("scale_depth", math.sqrt(layers)) / math.sqrt(layers),
        logit_scale=keys.integer("dim_model_base", hidden) / hidden,
    )


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """As llama.cpp has it: the multipliers aren't in the file."""
    return replace(
        config,
        embedding_scale=12.0,
        residual_scale=1.4 / math.sqrt(config.num_layers),
        logit_scale=256 / config.hidden_size,
    )


MINICPM3 = Family(
    architecture="minicpm3",
    read_config=_minicpm3,
    names=NAMES,
    ignored_keys=frozenset({"qk_head_dim"}),
    gguf=Gguf(architecture="minicpm3", names=GGUF_LATENT_NAMES, adjust=_gguf),
)
