"""Qwen2 and 2.5 (biases on query, key and value) and Qwen3 (query and key normalised per head)."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder, read_layer_types
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.llama import LLAMA_NAMES


def _windows(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """A window for the layers from `max_window_layers` on, or for those that `layer_types` says."""
    window = keys.integer("sliding_window", 4096)
    first = keys.integer("max_window_layers", 28, minimum=0)
    used = keys.boolean("use_sliding_window", False)
    types = read_layer_types(keys, num_layers)
    if types is None:
        types = tuple(used and layer >= first for layer in range(num_layers))
    if any(types) and not used:
        raise ConfigError(f"{keys.source}: layer_types slide, but use_sliding_window is false")
    return tuple(window if sliding else 0 for sliding in types)


def _qwen2(keys: Keys) -> ModelConfig:
    keys.expect("use_mrope", False)
    config = read_decoder(keys, architecture="qwen2", qkv_bias=True)
    return replace(config, windows=_windows(keys, config.num_layers))


def _qwen3(keys: Keys) -> ModelConfig:
    bias = keys.boolean("attention_bias", False)
    config = read_decoder(keys, architecture="qwen3", qkv_bias=bias, output_bias=bias, qk_norm=True)
    return replace(config, windows=_windows(keys, config.num_layers))


QWEN2 = Family(architecture="qwen2", read_config=_qwen2, names=LLAMA_NAMES)

QWEN3 = Family(architecture="qwen3", read_config=_qwen3, names=LLAMA_NAMES)
