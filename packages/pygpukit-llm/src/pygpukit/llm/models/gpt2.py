"""GPT-2: learned positions, LayerNorm, a plain MLP, and matrices stored (inputs, outputs)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import Names

__all__ = ["GPT2"]

_FACTS: dict[str, Any] = {
    "norm_kind": "layer",
    "norm_bias": True,
    "gated_mlp": False,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "learned_positions": True,
}

_IGNORED = frozenset({
    "attn_pdrop", "embd_pdrop", "n_ctx", "reorder_and_upcast_attn", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj",
})  # fmt: skip


def _gpt2(keys: Keys) -> ModelConfig:
    keys.expect("add_cross_attention", False)
    keys.default("intermediate_size", 4 * keys.integer("hidden_size"))
    keys.default("hidden_act", "gelu_new")
    keys.default("rms_norm_eps", 1e-5)
    keys.default("tie_word_embeddings", True)
    ropes = (None,) * keys.integer("num_hidden_layers")
    by_layer = keys.boolean("scale_attn_by_inverse_layer_idx", False)
    config = read_decoder(keys, architecture="gpt2", ropes=ropes, scale_by_layer=by_layer, **_FACTS)
    if keys.boolean("scale_attn_weights", True):
        return config
    return replace(config, attention_scale=1.0)


GPT2 = Family(
    architecture="gpt2",
    read_config=_gpt2,
    config_keys={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    ignored_keys=_IGNORED,
    names=Names(
        prefix="transformer.",
        slots={
            "embedding": (("transformer.wte",),),
            "position_embedding": (("transformer.wpe",),),
            "layers.attention_norm": (("transformer.h.{layer}.ln_1",),),
            "layers.qkv": (("transformer.h.{layer}.attn.c_attn",),),
            "layers.output": (("transformer.h.{layer}.attn.c_proj",),),
            "layers.mlp_norm": (("transformer.h.{layer}.ln_2",),),
            "layers.up": (("transformer.h.{layer}.mlp.c_fc",),),
            "layers.down": (("transformer.h.{layer}.mlp.c_proj",),),
            "norm": (("transformer.ln_f",),),
            "lm_head": (("lm_head",),),
        },
        transposed=frozenset({"layers.qkv", "layers.output", "layers.up", "layers.down"}),
        ignored=(r".*\.attn\.(bias|masked_bias)",),
    ),
    gguf=Gguf(architecture="gpt2", facts={**_FACTS, "activation": "gelu_tanh"}, rotated=False),
)
