"""GLM-4 (half of each head rotated, neighbours together), GLM-4.5 (experts), GLM-4.7 Flash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import Experts, ModelConfig, read_decoder
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.deepseek import (
    NAMES,
    read_experts,
    read_latent,
    read_sparse,
    sigmoid_where_corrected,
)
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import (
    GGUF_NAMES,
    LLAMA_NAMES,
    NAMES_WITH_SHARED_EXPERTS,
    renamed,
)

__all__ = ["GLM", "GLM4", "GLM4_MOE", "GLM4_MOE_LITE"]


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.default("partial_rotary_factor", 0.5)
    keys.default("rms_norm_eps", 1.5625e-7)
    keys.default("head_dim", 128)
    return read_decoder(
        keys,
        architecture=architecture,
        qkv_bias=keys.boolean("attention_bias", True),
        rope_interleaved=True,
        **facts,
    )


def _glm(keys: Keys) -> ModelConfig:
    return _read(keys, "glm")


GLM = Family(
    architecture="glm",
    read_config=_glm,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="chatglm", facts={"rope_interleaved": True}),
)


def _glm4(keys: Keys) -> ModelConfig:
    return _read(keys, "glm4", post_norm=True)


GLM4 = Family(
    architecture="glm4",
    read_config=_glm4,
    names=renamed(
        LLAMA_NAMES,
        post_attention_norm="model.layers.{layer}.post_self_attn_layernorm",
        post_mlp_norm="model.layers.{layer}.post_mlp_layernorm",
    ),
    gguf=Gguf(architecture="glm4", facts={"post_norm": True, "rope_interleaved": True}),
)


def _experts(keys: Keys, *, scale: float) -> Experts:
    return read_experts(
        keys,
        shared=1,
        normalized=keys.boolean("norm_topk_prob", True),
        scale=keys.number("routed_scaling_factor", scale),
        sigmoid=True,
        corrected=True,
        groups=keys.integer("n_group", 1),
        top_groups=keys.integer("topk_group", 1),
    )


def _glm4_moe(keys: Keys) -> ModelConfig:
    keys.default("partial_rotary_factor", 0.5)
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture="glm4_moe",
        qkv_bias=keys.boolean("attention_bias", False),
        qk_norm="head" if keys.boolean("use_qk_norm", False) else None,
        experts=_experts(keys, scale=1.0),
        sparse=read_sparse(keys, default=1),
    )


_IGNORED = frozenset({
    "num_mtp_layers", "num_nextn_predict_layers", "output_router_logits", "router_aux_loss_coef",
})  # fmt: skip

GLM4_MOE = Family(
    architecture="glm4_moe",
    read_config=_glm4_moe,
    names=replace(
        NAMES_WITH_SHARED_EXPERTS,
        # The last layer of the published models predicts the token after the next.
        ignored=(*NAMES_WITH_SHARED_EXPERTS.ignored, r"model\.layers\.(46|92)\..*"),
    ),
    ignored_keys=_IGNORED,
    gguf=Gguf(
        architecture="glm4moe",
        names=renamed(GGUF_NAMES, mlp_norm="blk.{layer}.post_attention_norm"),
        normalized=False,
        adjust=sigmoid_where_corrected,
    ),
)


def _glm4_moe_lite(keys: Keys) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    layers, kinds = keys.integer("num_hidden_layers"), keys.get("mlp_layer_types")
    sparse = read_sparse(keys, default=1)
    if isinstance(kinds, list) and len(kinds) == layers and set(kinds) <= {"dense", "sparse"}:
        sparse = tuple(kind == "sparse" for kind in kinds)
    elif kinds is not None:
        raise ConfigError(
            f"{keys.source}: key 'mlp_layer_types' must name dense or sparse for each of the "
            f"{layers} layers, found {kinds!r}"
        )
    keys.expect("scoring_func", "sigmoid")
    keys.expect("topk_method", "noaux_tc")
    interleaved = keys.boolean("rope_interleave", True)
    experts = _experts(keys, scale=1.8)
    return read_latent(keys, "glm4_moe_lite", experts, sparse=sparse, rope_interleaved=interleaved)


GLM4_MOE_LITE = Family(
    architecture="glm4_moe_lite",
    read_config=_glm4_moe_lite,
    names=replace(NAMES, ignored=(*NAMES.ignored, r"model\.layers\.47\..*")),
    ignored_keys=_IGNORED | {"head_dim", "qk_head_dim"},
)
