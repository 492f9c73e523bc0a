"""GPT-NeoX and Pythia: LayerNorm, a plain MLP beside the attention, a part of each head rotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_attention_bias, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import Names

__all__ = ["GPT_NEOX"]


_FACTS: dict[str, Any] = {"norm_kind": "layer", "norm_bias": True, "gated_mlp": False}


def _gpt_neox(keys: Keys) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    keys.default("hidden_act", "gelu")
    keys.default("partial_rotary_factor", 0.25)
    keys.expect("num_key_value_heads", keys.integer("num_attention_heads"))
    return read_decoder(
        keys,
        architecture="gpt_neox",
        **_FACTS,
        **read_attention_bias(keys, default=True),
        mlp_bias=True,
        parallel=keys.boolean("use_parallel_residual", True),
    )


def _by_head(config: ModelConfig, index: int, rows: int) -> Sequence[int]:
    """The file has query, key and value of a head together: (H, 3, D) rows for (3, H, D)."""
    heads, width = config.num_heads, config.head_dim
    return [
        (3 * head + part) * width + row
        for part in range(3)
        for head in range(heads)
        for row in range(width)
    ]


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(config, parallel=keys.boolean("use_parallel_residual", True))


_LAYER = "gpt_neox.layers.{layer}."

GPT_NEOX = Family(
    architecture="gpt_neox",
    read_config=_gpt_neox,
    config_keys={
        "rms_norm_eps": "layer_norm_eps",
        "partial_rotary_factor": "rotary_pct",
        "rope_theta": "rotary_emb_base",
    },
    ignored_keys=frozenset(
        {
            "attention_probs_dropout_prob",
            "classifier_dropout",
            "hidden_dropout",
            "hidden_dropout_prob",
        }
    ),
    names=Names(
        prefix="gpt_neox.",
        slots={
            "embedding": (("gpt_neox.embed_in",),),
            "layers.attention_norm": ((f"{_LAYER}input_layernorm",),),
            "layers.qkv": ((f"{_LAYER}attention.query_key_value",),),
            "layers.output": ((f"{_LAYER}attention.dense",),),
            "layers.mlp_norm": ((f"{_LAYER}post_attention_layernorm",),),
            "layers.up": ((f"{_LAYER}mlp.dense_h_to_4h",),),
            "layers.down": ((f"{_LAYER}mlp.dense_4h_to_h",),),
            "norm": (("gpt_neox.final_layer_norm",),),
            "lm_head": (("embed_out",), ("lm_head",)),
        },
        orders={"layers.qkv": _by_head},
        ignored=(r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    ),
    gguf=Gguf(
        architecture="gptneox",
        facts={**_FACTS, "activation": "gelu"},
        adjust=_gguf,
    ),
)
