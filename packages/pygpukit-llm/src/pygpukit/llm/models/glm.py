"""GLM-4 (half of each head is rotated, neighbouring dimensions together) and GLM-4.5 (experts)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.deepseek import read_experts, read_sparse
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, NAMES_WITH_SHARED_EXPERTS, renamed

__all__ = ["GLM", "GLM4", "GLM4_MOE"]


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


GLM = Family(architecture="glm", read_config=_glm, names=LLAMA_NAMES)


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


def _glm4_moe(keys: Keys) -> ModelConfig:
    keys.default("partial_rotary_factor", 0.5)
    keys.default("rms_norm_eps", 1e-5)
    experts = read_experts(
        keys,
        shared=1,
        normalized=keys.boolean("norm_topk_prob", True),
        scale=keys.number("routed_scaling_factor", 1.0),
        sigmoid=True,
        corrected=True,
        groups=keys.integer("n_group", 1),
        top_groups=keys.integer("topk_group", 1),
    )
    return read_decoder(
        keys,
        architecture="glm4_moe",
        qkv_bias=keys.boolean("attention_bias", False),
        qk_norm="head" if keys.boolean("use_qk_norm", False) else None,
        experts=experts,
        sparse=read_sparse(keys, default=1),
    )


GLM4_MOE = Family(
    architecture="glm4_moe",
    read_config=_glm4_moe,
    names=replace(
        NAMES_WITH_SHARED_EXPERTS,
        # The last layer of the published models predicts the token after the next.
        ignored=(*NAMES_WITH_SHARED_EXPERTS.ignored, r"model\.layers\.(46|92)\..*"),
    ),
    ignored_keys=frozenset({
        "num_mtp_layers", "num_nextn_predict_layers", "output_router_logits",
        "router_aux_loss_coef",
    }),
)  # fmt: skip
