"""StableLM: LayerNorm, part of each head rotated, attention and MLP in turn or side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import GGUF_NAMES, LLAMA_NAMES

__all__ = ["STABLELM"]


_FACTS: dict[str, Any] = {"norm_kind": "layer", "norm_bias": True}


def _stablelm(keys: Keys) -> ModelConfig:
    keys.expect("qk_layernorm", False)
    keys.default("partial_rotary_factor", 0.25)
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture="stablelm",
        **_FACTS,
        qkv_bias=keys.boolean("use_qkv_bias", False),
        parallel=keys.boolean("use_parallel_residual", False),
    )


_NORMS = (
    ("model.layers.{layer}.post_attention_layernorm",),
    ("model.layers.{layer}.input_layernorm",),
)

_GGUF_NORMS = (("blk.{layer}.ffn_norm",), ("blk.{layer}.attn_norm",))
_GGUF_NAMES = replace(GGUF_NAMES, slots={**GGUF_NAMES.slots, "layers.mlp_norm": _GGUF_NORMS})


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(config, parallel=keys.boolean("use_parallel_residual", False))


STABLELM = Family(
    architecture="stablelm",
    read_config=_stablelm,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    ignored_keys=frozenset({"hidden_dropout"}),
    # Side by side, they share a norm.
    names=replace(LLAMA_NAMES, slots={**LLAMA_NAMES.slots, "layers.mlp_norm": _NORMS}),
    gguf=Gguf(architecture="stablelm", names=_GGUF_NAMES, facts=_FACTS, adjust=_gguf),
)
