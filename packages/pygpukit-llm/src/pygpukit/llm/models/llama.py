"""Llama 2 and 3, SmolLM2 and their many kin; Mistral, which adds a sliding window."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Names

LLAMA_NAMES = Names(
    prefix="model.",
    slots={
        "embedding": (("model.embed_tokens",),),
        "layers.attention_norm": (("model.layers.{layer}.input_layernorm",),),
        "layers.qkv": (
            (
                "model.layers.{layer}.self_attn.q_proj",
                "model.layers.{layer}.self_attn.k_proj",
                "model.layers.{layer}.self_attn.v_proj",
            ),
            ("model.layers.{layer}.self_attn.qkv_proj",),
        ),
        "layers.q_norm": (("model.layers.{layer}.self_attn.q_norm",),),
        "layers.k_norm": (("model.layers.{layer}.self_attn.k_norm",),),
        "layers.output": (("model.layers.{layer}.self_attn.o_proj",),),
        "layers.mlp_norm": (("model.layers.{layer}.post_attention_layernorm",),),
        "layers.up": (
            ("model.layers.{layer}.mlp.gate_proj", "model.layers.{layer}.mlp.up_proj"),
            ("model.layers.{layer}.mlp.gate_up_proj",),
        ),
        "layers.down": (("model.layers.{layer}.mlp.down_proj",),),
        "norm": (("model.norm",),),
        "lm_head": (("lm_head",),),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),
)
"""The names that most families took over from Llama."""


def _llama(keys: Keys) -> ModelConfig:
    keys.expect("pretraining_tp", 1)
    keys.expect("rope_interleaved", False)
    bias = keys.boolean("attention_bias", False)
    return read_decoder(
        keys,
        architecture="llama",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=keys.boolean("mlp_bias", False),
    )


def _mistral(keys: Keys) -> ModelConfig:
    window = 4096 if "sliding_window" not in keys else keys.optional_integer("sliding_window")
    config = read_decoder(keys, architecture="mistral")
    return replace(config, windows=(window or 0,) * config.num_layers)


LLAMA = Family(
    architecture="llama",
    read_config=_llama,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"is_llama_config"}),
    gguf_permuted=True,
)

MISTRAL = Family(architecture="mistral", read_config=_mistral, names=LLAMA_NAMES)
