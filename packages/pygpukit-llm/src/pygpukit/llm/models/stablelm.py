"""StableLM: LayerNorm, part of each head rotated, attention and MLP in turn or side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES

__all__ = ["STABLELM"]


_FACTS: dict[str, Any] = {"norm_kind": "layer", "norm_bias": True}


def _stablelm(keys: Keys) -> ModelConfig:
    keys.expect("qk_layernorm", False)
    keys.default("partial_rotary_factor", 0.25)
    keys.default("rms_norm_eps", 1e-5)
    parallel = keys.boolean("use_parallel_residual", False)
    return read_decoder(
        keys,
        architecture="stablelm",
        **_FACTS,
        qkv_bias=keys.boolean("use_qkv_bias", False),
        parallel=parallel,
        shared_norm=parallel,
    )


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """As llama.cpp has it: the number of norms tells, not the key, which older files have wrong."""
    keys.get("use_parallel_residual")
    shared = keys.boolean("shared_norm")
    return replace(config, parallel=shared, shared_norm=shared)


STABLELM = Family(
    architecture="stablelm",
    read_config=_stablelm,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    ignored_keys=frozenset({"hidden_dropout"}),
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="stablelm", facts=_FACTS, adjust=_gguf),
)
