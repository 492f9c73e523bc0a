"""gpt-oss: every layer of experts, attention with sinks, every other layer with a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pygpukit.kernels import ClampedSwiGLU
from pygpukit.llm.config import (
    Experts,
    ModelConfig,
    read_attention_bias,
    read_decoder,
    read_windows,
)
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import GGUF_NAMES, LLAMA_NAMES, renamed

__all__ = ["GPT_OSS"]

_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The rotation where config.json has none."""

_ALPHA, _LIMIT = 1.702, 7.0


def _gpt_oss(keys: Keys) -> ModelConfig:
    for key, value in (("rope_theta", 150000.0), ("rms_norm_eps", 1e-5), ("head_dim", 64)):
        keys.default(key, value)
    if keys.get("rope_scaling") is None:
        keys.default("rope_parameters", _ROPE)
    keys.rename("num_experts", "num_local_experts")
    keys.rename("experts_per_token", "num_experts_per_tok")
    clamped = ClampedSwiGLU(
        keys.number("swiglu_alpha", _ALPHA), keys.positive("swiglu_limit", _LIMIT)
    )
    config = read_decoder(keys, architecture="gpt_oss", **read_attention_bias(keys, default=True))
    experts = Experts(
        count=keys.integer("num_local_experts", 128),
        chosen=keys.integer("num_experts_per_tok", 4),
        intermediate_size=config.intermediate_size,
        biased=True,
        clamped=clamped,
    )
    return replace(
        config,
        sinks=True,
        experts=experts,
        sparse=(True,) * config.num_layers,
        windows=read_windows(keys, default=128, full_period=2),
    )


def _gate_first(config: ModelConfig, index: int, rows: int) -> Sequence[int]:
    """Of gates and others in turn the gates, then the others."""
    return [*range(0, rows, 2), *range(1, rows, 2)]


_EXPERTS = "model.layers.{layer}.mlp.experts."
_UP, _DOWN = f"{_EXPERTS}gate_up_proj", f"{_EXPERTS}down_proj"

# As published, and as transformers saves what it has dequantised: (inputs, outputs).
_NAMES = renamed(
    LLAMA_NAMES,
    sinks="model.layers.{layer}.self_attn.sinks",
    router="model.layers.{layer}.mlp.router",
)
_NAMES = replace(
    _NAMES,
    slots={
        **_NAMES.slots,
        "layers.experts_up": ((f"{_UP}_blocks.",), (f"{_UP}.",)),
        "layers.experts_down": ((f"{_DOWN}_blocks.",), (f"{_DOWN}.",)),
        "layers.experts_up.bias": ((f"{_UP}_bias.",),),
        "layers.experts_down.bias": ((f"{_DOWN}_bias.",),),
    },
    transposed=frozenset({"layers.experts_up", "layers.experts_down"}),
    orders={"layers.experts_up": _gate_first},
)


def _gpt_oss_gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """What the file leaves to the architecture."""
    if config.experts is None:
        raise ConfigError(f"{keys.source}: key 'expert_count' is missing")
    experts = replace(config.experts, clamped=ClampedSwiGLU(_ALPHA, _LIMIT))
    return replace(config, sinks=True, experts=experts)


GPT_OSS = Family(
    architecture="gpt_oss",
    read_config=_gpt_oss,
    names=_NAMES,
    ignored_keys=frozenset({
        "initial_context_length", "output_router_logits", "router_aux_loss_coef",
    }),
    gguf=Gguf(
        architecture="gpt-oss",
        names=renamed(
            GGUF_NAMES,
            mlp_norm="blk.{layer}.post_attention_norm",
            sinks="blk.{layer}.attn_sinks.weight",
        ),
        full_period=2,
        yarn_truncated=False,  # as the model was trained; llama.cpp rounds all the same
        adjust=_gpt_oss_gguf,
    ),
)  # fmt: skip
