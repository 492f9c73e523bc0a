"""StarCoder2: LayerNorm, a plain MLP and biases throughout, a window for all layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["STARCODER2"]


_FACTS: dict[str, Any] = {"norm_kind": "layer", "norm_bias": True, "gated_mlp": False}


def _starcoder2(keys: Keys) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    keys.default("hidden_act", "gelu_pytorch_tanh")
    keys.default("num_key_value_heads", 2)
    keys.default("tie_word_embeddings", True)
    keys.expect("mlp_type", "default")
    keys.expect("norm_type", "layer_norm")
    keys.expect("scale_attn_weights", True)
    bias = keys.boolean("use_bias", True)
    config = read_decoder(
        keys,
        architecture="starcoder2",
        **_FACTS,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
    )
    return replace(config, windows=(keys.integer("sliding_window", 0),) * config.num_layers)


STARCODER2 = Family(
    architecture="starcoder2",
    read_config=_starcoder2,
    config_keys={"rms_norm_eps": "norm_epsilon"},
    ignored_keys=frozenset({
        "activation_function", "attention_softmax_in_fp32", "embedding_dropout",
        "layer_norm_epsilon",
        "residual_dropout", "scale_attention_softmax_in_fp32",
    }),
    names=renamed(
        LLAMA_NAMES,
        up="model.layers.{layer}.mlp.c_fc",
        down="model.layers.{layer}.mlp.c_proj",
    ),
    gguf=Gguf(architecture="starcoder2", facts={**_FACTS, "activation": "gelu_tanh"}),
)  # fmt: skip
