"""Granite: Llama with multipliers, also with experts; Granite 4 where all layers are attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import Experts, ModelConfig, read_attention_bias, read_decoder
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import GGUF_LLAMA_NAMES, LLAMA_NAMES, renamed

__all__ = ["GRANITE", "GRANITE_MOE", "GRANITE_MOE_HYBRID", "GRANITE_MOE_SHARED"]


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    return read_decoder(
        keys,
        architecture=architecture,
        **read_attention_bias(keys),
        attention_scale=keys.number("attention_multiplier", 1.0),
        embedding_scale=keys.number("embedding_multiplier", 1.0),
        residual_scale=keys.number("residual_multiplier", 1.0),
        logit_scale=1 / keys.positive("logits_scaling", 1.0),
        **facts,
    )


def _granite(keys: Keys) -> ModelConfig:
    return _read(keys, "granite", mlp_bias=keys.boolean("mlp_bias", False))


def _granite_gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Those of Granite 4 have keys about state spaces also where there are none."""
    for key in ("conv_kernel", "group_count", "inner_size", "state_size", "time_step_rank"):
        keys.get(f"ssm.{key}")
    rotated = keys.boolean("rope.scaling.finetuned", True)  # as llama.cpp takes it here
    return replace(
        config,
        ropes=config.ropes if rotated else (None,) * config.num_layers,
        attention_scale=keys.number("attention.scale", config.attention_scale),
        embedding_scale=keys.number("embedding_scale", 1.0),
        residual_scale=keys.number("residual_scale", 1.0),
        logit_scale=1 / keys.positive("logit_scale", 1.0),
    )


GRANITE = Family(
    architecture="granite",
    read_config=_granite,
    names=LLAMA_NAMES,
    gguf=Gguf(architecture="granite", names=GGUF_LLAMA_NAMES, adjust=_granite_gguf),
)


def _with_experts(keys: Keys, architecture: str, *, shared_size: int) -> ModelConfig:
    experts = Experts(
        count=keys.integer("num_local_experts", 8),
        chosen=keys.integer("num_experts_per_tok", 2),
        intermediate_size=keys.integer("intermediate_size"),
        shared_size=shared_size,
    )
    layers = keys.integer("num_hidden_layers")
    return _read(keys, architecture, experts=experts, sparse=(True,) * layers)


def _granite_moe(keys: Keys) -> ModelConfig:
    return _with_experts(keys, "granitemoe", shared_size=0)


_LAYER = "model.layers.{layer}."

_NAMES = renamed(
    LLAMA_NAMES,
    router=f"{_LAYER}block_sparse_moe.router.layer",
    experts_up=f"{_LAYER}block_sparse_moe.input_linear",
    experts_down=f"{_LAYER}block_sparse_moe.output_linear",
    shared_up=f"{_LAYER}shared_mlp.input_linear",
    shared_down=f"{_LAYER}shared_mlp.output_linear",
)

_IGNORED = frozenset({"output_router_logits", "router_aux_loss_coef"})

GRANITE_MOE = Family(
    architecture="granitemoe",
    read_config=_granite_moe,
    names=_NAMES,
    ignored_keys=_IGNORED,
    gguf=Gguf(architecture="granitemoe", names=GGUF_LLAMA_NAMES, adjust=_granite_gguf),
)


def _granite_moe_shared(keys: Keys) -> ModelConfig:
    shared_size = keys.integer("shared_intermediate_size", 0, minimum=0)
    return _with_experts(keys, "granitemoeshared", shared_size=shared_size)


GRANITE_MOE_SHARED = Family(
    architecture="granitemoeshared",
    read_config=_granite_moe_shared,
    names=_NAMES,
    ignored_keys=_IGNORED,
)


def _granite_moe_hybrid(keys: Keys) -> ModelConfig:
    """The MLP that every token goes through is all there is where there are no experts."""
    keys.expect("normalization_function", "rmsnorm")
    keys.expect("mlp_bias", False)
    keys.rename("layers_block_type", "layer_types")
    types = keys.get("layer_types")
    if not isinstance(types, list) or not set(types) <= {"attention", "full_attention"}:
        raise ConfigError(
            f"{keys.source}: key 'layer_types' must name attention for every layer, found "
            f"{types!r}; layers of state spaces aren't supported"
        )
    shared_size = keys.integer("shared_intermediate_size", 1024)
    if keys.integer("num_local_experts", 8, minimum=0):
        config = _with_experts(keys, "granitemoehybrid", shared_size=shared_size)
    else:
        keys.get("num_experts_per_tok")
        config = _read(keys, "granitemoehybrid", intermediate_size=shared_size)
    keys.get("intermediate_size")
    rotated = keys.get("position_embedding_type") == "rope"
    if not rotated and keys.get("position_embedding_type") not in (None, "nope"):
        keys.expect("position_embedding_type", "rope")
    return config if rotated else replace(config, ropes=(None,) * config.num_layers)


GRANITE_MOE_HYBRID = Family(
    architecture="granitemoehybrid",
    read_config=_granite_moe_hybrid,
    names=renamed(
        _NAMES,
        up=f"{_LAYER}shared_mlp.input_linear",
        down=f"{_LAYER}shared_mlp.output_linear",
    ),
    ignored_keys=_IGNORED
    | {
        *("mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state"),
        *("mamba_expand", "mamba_n_groups", "mamba_n_heads", "mamba_proj_bias"),
        *("init_method", "time_step_limit"),
    },
)
