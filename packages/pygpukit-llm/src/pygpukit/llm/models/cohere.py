"""Cohere's Command R and R7B: LayerNorm without bias, attention and MLP side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_attention_bias, read_decoder, read_windows
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES

__all__ = ["COHERE", "COHERE2"]


_FACTS: dict[str, Any] = {
    "norm_kind": "layer",
    "parallel": True,
    "shared_norm": True,
    "rope_interleaved": True,
}


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.default("tie_word_embeddings", True)
    keys.default("rms_norm_eps", 1e-5)
    return read_decoder(
        keys,
        architecture=architecture,
        **_FACTS,
        **read_attention_bias(keys),
        logit_scale=keys.number("logit_scale", 0.0625),
        **facts,
    )


def _cohere(keys: Keys) -> ModelConfig:
    keys.default("rope_theta", 500000.0)
    normalised = keys.boolean("use_qk_norm", False)
    return _read(keys, "cohere", qk_norm="heads" if normalised else None)


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(config, logit_scale=keys.number("logit_scale"))


COHERE = Family(
    architecture="cohere",
    read_config=_cohere,
    names=LLAMA_NAMES,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    gguf=Gguf(architecture="command-r", facts=_FACTS, qk_norm="heads", adjust=_gguf),
)

_COHERE2_EXPECTED: dict[str, object] = {
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}


def _cohere2(keys: Keys) -> ModelConfig:
    for key, value in _COHERE2_EXPECTED.items():
        keys.expect(key, value)
    keys.rename("_sliding_window_pattern", "sliding_window_pattern")
    keys.rename("layer_switch", "sliding_window_pattern")
    period = keys.integer("sliding_window_pattern", 4)
    windows = read_windows(keys, default=4096, full_period=period)
    return _rotated_within_windows(_read(keys, "cohere2", windows=windows))


def _rotated_within_windows(config: ModelConfig) -> ModelConfig:
    """Layers with a window are rotated; those without one don't know of positions."""
    layers = zip(config.ropes, config.windows, strict=True)
    return replace(config, ropes=tuple(rope if window else None for rope, window in layers))


def _gguf2(config: ModelConfig, keys: Keys) -> ModelConfig:
    return _gguf(_rotated_within_windows(config), keys)


COHERE2 = Family(
    architecture="cohere2",
    read_config=_cohere2,
    names=LLAMA_NAMES,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    ignored_keys=frozenset({
        "cache_implementation", "use_embedding_sharing", "use_parallel_embedding",
    }),
    gguf=Gguf(architecture="cohere2", facts=_FACTS, full_period=4, adjust=_gguf2),
)  # fmt: skip
