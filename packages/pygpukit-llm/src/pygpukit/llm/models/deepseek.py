"""DeepSeek-V2 and V3: latent attention, and experts of which one is for every token; Youtu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pygpukit.llm.config import (
    Experts,
    Latent,
    ModelConfig,
    read_attention_bias,
    read_decoder,
    read_rope_keys,
)
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import (
    GGUF_NAMES,
    LLAMA_NAMES,
    NAMES_WITH_SHARED_EXPERTS,
    Names,
    renamed,
)

__all__ = ["DEEPSEEK_V2", "DEEPSEEK_V3", "KIMI_K2", "YOUTU"]


def read_latent(
    keys: Keys, architecture: str, experts: Experts | None = None, **facts: Any
) -> ModelConfig:
    """A config with latent attention; `sparse` says which layers have the experts."""
    keys.expect("num_key_value_heads", keys.integer("num_attention_heads"))
    keys.expect("moe_layer_freq", 1)
    latent = Latent(
        kv_rank=keys.integer("kv_lora_rank", 512),
        q_rank=keys.optional_integer("q_lora_rank") if "q_lora_rank" in keys else 1536,
        rotated=keys.integer("qk_rope_head_dim", 64),
        plain=keys.integer("qk_nope_head_dim", 128),
        value=keys.integer("v_head_dim", 128),
    )
    rope = read_rope_keys(keys, latent.rotated, keys.integer("max_position_embeddings"))
    config = read_decoder(
        keys,
        architecture=architecture,
        latent=latent,
        experts=experts,
        head_dim=latent.cached,
        attention_scale=latent.width**-0.5 * rope.magnitude**2,
        ropes=(rope,) * keys.integer("num_hidden_layers"),
        **read_attention_bias(keys),
        **facts,
    )
    return replace(config, num_kv_heads=config.num_heads)


def read_experts(keys: Keys, *, shared: int, **facts: Any) -> Experts:
    """Experts as DeepSeek's configs have them, of which `shared` are for every token by default."""
    inner = keys.integer("moe_intermediate_size")
    keys.rename("num_local_experts", "n_routed_experts")
    experts = Experts(
        count=keys.integer("n_routed_experts"),
        chosen=keys.integer("num_experts_per_tok"),
        intermediate_size=inner,
        shared_size=inner * keys.integer("n_shared_experts", shared),
        **facts,
    )
    of_groups = experts.top_groups * experts.count // experts.groups
    if experts.count % experts.groups or experts.top_groups > experts.groups:
        raise ConfigError(
            f"{keys.source}: n_group {experts.groups} must divide n_routed_experts "
            f"{experts.count}, and topk_group {experts.top_groups} must not exceed it"
        )
    if experts.chosen > of_groups:
        raise ConfigError(
            f"{keys.source}: num_experts_per_tok must be at most {of_groups}, the experts of "
            f"topk_group {experts.top_groups} groups, found {experts.chosen}"
        )
    return experts


def read_sparse(keys: Keys, *, default: int) -> tuple[bool, ...]:
    """The layers with experts: all behind the first `first_k_dense_replace`."""
    dense = keys.integer("first_k_dense_replace", default, minimum=0)
    return tuple(layer >= dense for layer in range(keys.integer("num_hidden_layers")))


def _deepseek_v2(keys: Keys) -> ModelConfig:
    keys.expect("scoring_func", "softmax")
    keys.expect("norm_topk_prob", False)
    method = keys.choice("topk_method", {"greedy": False, "group_limited_greedy": True}, "greedy")
    groups = {"n_group": keys.integer("n_group", 1), "topk_group": keys.integer("topk_group", 1)}
    experts = read_experts(
        keys,
        shared=2,
        normalized=False,
        scale=keys.number("routed_scaling_factor", 1.0),
        groups=groups["n_group"] if method else 1,
        top_groups=groups["topk_group"] if method else 1,
    )
    keys.expect("mlp_bias", False)
    return read_latent(
        keys, "deepseek_v2", experts, sparse=read_sparse(keys, default=0), rope_interleaved=True
    )


def _deepseek_v3(keys: Keys) -> ModelConfig:
    keys.expect("scoring_func", "sigmoid")
    keys.expect("topk_method", "noaux_tc")
    experts = read_experts(
        keys,
        shared=1,
        normalized=keys.boolean("norm_topk_prob", True),
        scale=keys.number("routed_scaling_factor", 2.5),
        sigmoid=True,
        corrected=True,
        groups=keys.integer("n_group", 8),
        top_groups=keys.integer("topk_group", 4),
    )
    interleaved = keys.boolean("rope_interleave", True)
    return read_latent(
        keys,
        "deepseek_v3",
        experts,
        sparse=read_sparse(keys, default=3),
        rope_interleaved=interleaved,
    )


def _rotated_first(config: ModelConfig, index: int, rows: int) -> Sequence[int]:
    """Of each head the file has the rows without position before the rotated ones."""
    latent = config.latent
    assert latent is not None
    order = [*range(latent.plain, latent.width), *range(latent.plain)]
    return [head * latent.width + row for head in range(config.num_heads) for row in order]


def _keys_before_values(config: ModelConfig, index: int, rows: int) -> Sequence[int]:
    """The file has a head's key and value together."""
    latent, heads = config.latent, range(config.num_heads)
    assert latent is not None
    width = latent.plain + latent.value
    return [
        *(head * width + row for head in heads for row in range(latent.plain)),
        *(head * width + row for head in heads for row in range(latent.plain, width)),
    ]


_ATTENTION = "model.layers.{layer}.self_attn."

NAMES: Names = replace(
    renamed(
        NAMES_WITH_SHARED_EXPERTS,
        q=f"{_ATTENTION}q_proj",
        q_down=f"{_ATTENTION}q_a_proj",
        q_norm=f"{_ATTENTION}q_a_layernorm",
        q_up=f"{_ATTENTION}q_b_proj",
        kv_down=f"{_ATTENTION}kv_a_proj_with_mqa",
        kv_norm=f"{_ATTENTION}kv_a_layernorm",
        kv_up=f"{_ATTENTION}kv_b_proj",
    ),
    orders={
        "layers.q": _rotated_first,
        "layers.q_up": _rotated_first,
        "layers.kv_up": _keys_before_values,
    },
    # The last are the published V3's layer that predicts the token after the next.
    ignored=(*LLAMA_NAMES.ignored, r"model\.layers\.61\..*"),
)

_IGNORED = frozenset({
    "aux_loss_alpha", "ep_size", "head_dim", "num_mtp_layers", "num_nextn_predict_layers",
    "output_router_logits", "qk_head_dim", "router_aux_loss_coef", "seq_aux",
})  # fmt: skip

GGUF_LATENT_NAMES = replace(
    renamed(
        GGUF_NAMES,
        q="blk.{layer}.attn_q",
        q_down="blk.{layer}.attn_q_a",
        q_norm="blk.{layer}.attn_q_a_norm",
        q_up="blk.{layer}.attn_q_b",
        kv_down="blk.{layer}.attn_kv_a_mqa",
        kv_norm="blk.{layer}.attn_kv_a_norm",
        kv_up="blk.{layer}.attn_k_b blk.{layer}.attn_v_b",
    ),
    orders=NAMES.orders,
    by_head={"blk.{layer}.attn_k_b": True, "blk.{layer}.attn_v_b": False},
)
GGUF_LATENT_NAMES = replace(
    GGUF_LATENT_NAMES,
    slots={
        **GGUF_LATENT_NAMES.slots,
        # Older files have both of a head together.
        "layers.kv_up": (
            ("blk.{layer}.attn_k_b", "blk.{layer}.attn_v_b"),
            ("blk.{layer}.attn_kv_b",),
        ),
    },
)


def sigmoid_where_corrected(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Experts are scored by sigmoids where there is a correction, if the file doesn't say how."""
    experts = config.experts
    if experts is None or not experts.corrected or "expert_gating_func" in keys:
        return config
    return replace(config, experts=replace(experts, sigmoid=True))


DEEPSEEK_V2 = Family(
    architecture="deepseek_v2",
    read_config=_deepseek_v2,
    names=NAMES,
    ignored_keys=_IGNORED,
    gguf=Gguf(  # V3, Kimi K2, GLM-4.7 Flash and Youtu as well
        architecture="deepseek2",
        names=GGUF_LATENT_NAMES,
        facts={"rope_interleaved": True},
        normalized=False,
        log_multiplier_unit=0.1,
        adjust=sigmoid_where_corrected,
    ),
)

DEEPSEEK_V3 = Family(
    architecture="deepseek_v3", read_config=_deepseek_v3, names=NAMES, ignored_keys=_IGNORED
)


KIMI_K2 = replace(DEEPSEEK_V3, architecture="kimi_k2")
"""DeepSeek V3 by another name."""


def _youtu(keys: Keys) -> ModelConfig:
    keys.default("tie_word_embeddings", True)
    keys.expect("mlp_bias", False)
    interleaved = keys.boolean("rope_interleave", True)
    return read_latent(keys, "youtu", rope_interleaved=interleaved)


YOUTU = Family(
    architecture="youtu",
    read_config=_youtu,
    names=NAMES,
    ignored_keys=_IGNORED | {"embedding_initializer_range"},
)
