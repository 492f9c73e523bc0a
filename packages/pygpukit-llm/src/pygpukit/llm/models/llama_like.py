"""Llama's maths with a difference or two: Arcee, CWM, ERNIE 4.5, InternLM 3, Seed-OSS."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder, read_layer_types
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["ARCEE", "CWM", "ERNIE4_5", "INTERNLM3", "SEED_OSS"]


def _arcee(keys: Keys) -> ModelConfig:
    """The MLP has no gate."""
    keys.default("hidden_act", "relu2")
    keys.default("rms_norm_eps", 1e-5)
    bias = keys.boolean("attention_bias", False)
    return read_decoder(
        keys,
        architecture="arcee",
        qkv_bias=bias,
        output_bias=bias,
        gated_mlp=False,
        mlp_bias=keys.boolean("mlp_bias", False),
    )


ARCEE = Family(
    architecture="arcee",
    read_config=_arcee,
    names=renamed(LLAMA_NAMES, up="model.layers.{layer}.mlp.up_proj"),
)


def _cwm(keys: Keys) -> ModelConfig:
    """Of four layers the first sees everything, the others a window."""
    keys.expect("pretraining_tp", 1)
    keys.expect("mlp_bias", False)
    keys.default("rope_theta", 1e6)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    config = read_decoder(keys, architecture="cwm")
    types = read_layer_types(keys, config.num_layers)
    if types is None:
        types = tuple(layer % 4 > 0 for layer in range(config.num_layers))
    window = keys.integer("sliding_window", 8192)
    return replace(config, windows=tuple(window if sliding else 0 for sliding in types))


CWM = Family(architecture="cwm", read_config=_cwm, names=LLAMA_NAMES)


def _ernie4_5(keys: Keys) -> ModelConfig:
    """Neighbouring dimensions are rotated together."""
    keys.default("rope_theta", 500000.0)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("head_dim", 128)
    keys.default("tie_word_embeddings", True)
    bias = keys.boolean("use_bias", False)
    return read_decoder(
        keys,
        architecture="ernie4_5",
        rope_interleaved=True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
    )


ERNIE4_5 = Family(architecture="ernie4_5", read_config=_ernie4_5, names=LLAMA_NAMES)


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
    keys.expect("pretraining_tp", 1)
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
)
