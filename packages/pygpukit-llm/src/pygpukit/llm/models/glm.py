"""GLM-4 (0414 and before): half of each head is rotated, neighbouring dimensions together."""

from __future__ import annotations

from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["GLM", "GLM4"]


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.default("partial_rotary_factor", 0.5)
    keys.default("rms_norm_eps", 1.5625e-7)
    keys.default("head_dim", 128)
    return read_decoder(
        keys,
        architecture=architecture,
        qkv_bias=keys.boolean("attention_bias", True),
        rope_interleaved=True,
        **facts,
    )


def _glm(keys: Keys) -> ModelConfig:
    return _read(keys, "glm")


GLM = Family(architecture="glm", read_config=_glm, names=LLAMA_NAMES)


def _glm4(keys: Keys) -> ModelConfig:
    return _read(keys, "glm4", post_norm=True)


GLM4 = Family(
    architecture="glm4",
    read_config=_glm4,
    names=renamed(
        LLAMA_NAMES,
        post_attention_norm="model.layers.{layer}.post_self_attn_layernorm",
        post_mlp_norm="model.layers.{layer}.post_mlp_layernorm",
    ),
)
