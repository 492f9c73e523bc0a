"""Llama's maths with a difference or two: Arcee, CWM, ERNIE 4.5, InternLM 3, Seed-OSS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
from pygpukit.llm.models.names import (
    GGUF_LLAMA_NAMES,
    GGUF_NAMES,
    LLAMA_NAMES,
    NAMES_WITH_SHARED_EXPERTS,
    renamed,
)

__all__ = ["ARCEE", "CWM", "ERNIE4_5", "ERNIE4_5_MOE", "INTERNLM3", "SEED_OSS"]


def _arcee(keys: Keys) -> ModelConfig:
    """The MLP has no gate."""
    keys.default("hidden_act", "relu2")
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture="arcee",
        **read_attention_bias(keys),
        gated_mlp=False,
        mlp_bias=keys.boolean("mlp_bias", False),
    )


ARCEE = Family(
    architecture="arcee",
    read_config=_arcee,
    names=renamed(LLAMA_NAMES, up="model.layers.{layer}.mlp.up_proj"),
    gguf=Gguf(
        architecture="arcee",
        names=GGUF_LLAMA_NAMES,
        facts={"gated_mlp": False, "activation": "relu_squared"},
    ),
)


_ROPE_OF_CWM = {
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _cwm(keys: Keys) -> ModelConfig:
    """Of four layers the first sees everything, the others a window."""
    keys.expect("mlp_bias", False)
    keys.default("rope_theta", 1e6)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    if keys.get("rope_scaling") is None:
        keys.default("rope_parameters", _ROPE_OF_CWM)
    config = read_decoder(keys, architecture="cwm")
    types = read_layer_types(keys, config.num_layers)
    if types is None:
        types = tuple(layer % 4 > 0 for layer in range(config.num_layers))
    window = keys.integer("sliding_window", 8192)
    return replace(config, windows=tuple(window if sliding else 0 for sliding in types))


CWM = Family(architecture="cwm", read_config=_cwm, names=LLAMA_NAMES)


def _read_ernie(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    """Neighbouring dimensions are rotated together."""
    keys.default("rope_theta", 500000.0)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    keys.default("tie_word_embeddings", True)
    bias = keys.boolean("use_bias", False)
    return read_decoder(
        keys,
        architecture=architecture,
        rope_interleaved=True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        **facts,
    )


def _ernie4_5(keys: Keys) -> ModelConfig:
    return _read_ernie(keys, "ernie4_5")


ERNIE4_5 = Family(
    architecture="ernie4_5",
    read_config=_ernie4_5,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="ernie4_5", facts={"rope_interleaved": True}),
)


def _ernie4_5_moe(keys: Keys) -> ModelConfig:
    keys.expect("use_bias", False)
    keys.expect("moe_norm_min", 1e-12)
    head_dim = keys.integer("hidden_size") // keys.integer("num_attention_heads")
    keys.default("head_dim", head_dim)
    inner = keys.integer("moe_intermediate_size", 1536)
    layers, step = keys.integer("num_hidden_layers"), keys.integer("moe_layer_interval", 1)
    first = keys.integer("moe_layer_start_index", 1, minimum=0)
    last = keys.integer("moe_layer_end_index", -1, minimum=-1)
    return _read_ernie(
        keys,
        "ernie4_5_moe",
        experts=Experts(
            count=keys.integer("moe_num_experts", 64),
            chosen=keys.integer("moe_k", 6),
            intermediate_size=inner,
            shared_size=inner * keys.integer("moe_num_shared_experts", 2, minimum=0),
            corrected=True,
        ),
        sparse=tuple(
            (layer + 1) % step == 0 and first <= layer <= (last if last >= 0 else layers)
            for layer in range(layers)
        ),
    )


ERNIE4_5_MOE = Family(
    architecture="ernie4_5_moe",
    read_config=_ernie4_5_moe,
    names=renamed(
        NAMES_WITH_SHARED_EXPERTS,
        correction="model.layers.{layer}.mlp.moe_statics.e_score_correction_bias",
    ),
    ignored_keys=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    gguf=Gguf(architecture="ernie4_5-moe", facts={"rope_interleaved": True}),
)


def _internlm3(keys: Keys) -> ModelConfig:
    keys.rename("qkv_bias", "attention_bias")
    keys.rename("bias", "mlp_bias")
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    bias = keys.boolean("attention_bias", False)
    if keys.boolean("mlp_bias", False) != bias:
        raise ConfigError(f"{keys.source}: attention_bias and mlp_bias must be the same")
    return read_decoder(
        keys, architecture="internlm3", qkv_bias=bias, output_bias=bias, mlp_bias=bias
    )


INTERNLM3 = Family(architecture="internlm3", read_config=_internlm3, names=LLAMA_NAMES)


def _seed_oss(keys: Keys) -> ModelConfig:
    keys.default("head_dim", 128)
    return read_decoder(
        keys,
        architecture="seed_oss",
        qkv_bias=keys.boolean("attention_bias", True),
        output_bias=keys.boolean("attention_out_bias", False),
        mlp_bias=keys.boolean("mlp_bias", False),
    )


SEED_OSS = Family(
    architecture="seed_oss",
    read_config=_seed_oss,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"residual_dropout"}),
    gguf=Gguf(
        architecture="seed_oss",
        names=renamed(GGUF_NAMES, mlp_norm="blk.{layer}.post_attention_norm"),
    ),
)
