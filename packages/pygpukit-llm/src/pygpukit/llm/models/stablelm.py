"""StableLM: LayerNorm, part of each head rotated, attention and MLP in turn or side by side."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.names import LLAMA_NAMES

__all__ = ["STABLELM"]


def _stablelm(keys: Keys) -> ModelConfig:
    keys.expect("qk_layernorm", False)
    keys.default("partial_rotary_factor", 0.25)
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture="stablelm",
        norm_kind="layer",
        norm_bias=True,
        qkv_bias=keys.boolean("use_qkv_bias", False),
        parallel=keys.boolean("use_parallel_residual", False),
    )


_NORMS = (
    ("model.layers.{layer}.post_attention_layernorm",),
    ("model.layers.{layer}.input_layernorm",),
)

STABLELM = Family(
    architecture="stablelm",
    read_config=_stablelm,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    ignored_keys=frozenset({"hidden_dropout"}),
    # Side by side, they share a norm.
    names=replace(LLAMA_NAMES, slots={**LLAMA_NAMES.slots, "layers.mlp_norm": _NORMS}),
)
