"""OLMo 2 (norms behind attention and MLP, and of all queries and keys at once), OLMo 3, OLMoE."""

from __future__ import annotations

from typing import Any

from pygpukit.llm.config import (
    Experts,
    ModelConfig,
    read_attention_bias,
    read_decoder,
    read_ropes_by_window,
    read_windows,
    unscaled_within_windows,
)
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, NAMES_OF_NORMS_BEHIND

__all__ = ["OLMO2", "OLMO3", "OLMOE"]

_NORMS_BEHIND = {"pre_norm": False, "post_norm": True}


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture=architecture,
        **read_attention_bias(keys),
        qk_norm="row",
        **facts,
    )


def _olmo2(keys: Keys) -> ModelConfig:
    return _read(keys, "olmo2", **_NORMS_BEHIND)


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """OLMo 3 is one with windows, within which rotations aren't scaled."""
    theta = keys.number("rope.freq_base_swa", keys.number("rope_theta"))
    return unscaled_within_windows(config, theta)


OLMO2 = Family(
    architecture="olmo2",
    read_config=_olmo2,
    names=NAMES_OF_NORMS_BEHIND,
    gguf=Gguf(
        architecture="olmo2", facts=_NORMS_BEHIND, qk_norm="row", full_period=4, adjust=_gguf
    ),
)


def _olmo3(keys: Keys) -> ModelConfig:
    keys.default("rope_theta", 500000.0)
    windows = read_windows(keys, default=4096, full_period=4)
    ropes = read_ropes_by_window(keys, windows, local_theta=keys.number("rope_theta"))
    return _read(keys, "olmo3", **_NORMS_BEHIND, windows=windows, ropes=ropes)


OLMO3 = Family(architecture="olmo3", read_config=_olmo3, names=NAMES_OF_NORMS_BEHIND)


def _olmoe(keys: Keys) -> ModelConfig:
    keys.expect("clip_qkv", None)
    keys.rename("num_local_experts", "num_experts")
    experts = Experts(
        count=keys.integer("num_experts", 64),
        chosen=keys.integer("num_experts_per_tok", 8),
        intermediate_size=keys.integer("intermediate_size"),
        normalized=keys.boolean("norm_topk_prob", False),
    )
    layers = keys.integer("num_hidden_layers")
    return _read(keys, "olmoe", experts=experts, sparse=(True,) * layers)


OLMOE = Family(
    architecture="olmoe",
    read_config=_olmoe,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    gguf=Gguf(architecture="olmoe", qk_norm="row", normalized=False),
)
