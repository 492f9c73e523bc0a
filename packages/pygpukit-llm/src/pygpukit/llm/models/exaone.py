"""EXAONE 4: norms behind attention and MLP; where there are windows, only within them positions."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder, read_layer_types
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import NAMES_OF_NORMS_BEHIND

__all__ = ["EXAONE4"]

_FACTS = {"pre_norm": False, "post_norm": True}


def _exaone4(keys: Keys) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    config = read_decoder(keys, architecture="exaone4", qk_norm="head", **_FACTS)
    layers = config.num_layers
    types = read_layer_types(keys, layers)
    absent = "sliding_window" in keys and keys.get("sliding_window") is None
    if types is None:
        period = 0 if absent else keys.integer("sliding_window_pattern", 4, minimum=0)
        types = tuple(period > 0 and (layer + 1) % period > 0 for layer in range(layers))
    keys.get("sliding_window_pattern")  # "LLLG" in files, which name the layers as well
    if absent:
        return config
    window = keys.integer("sliding_window", 4096)
    return replace(
        config,
        windows=tuple(window if sliding else 0 for sliding in types),
        ropes=tuple(
            rope if sliding else None for rope, sliding in zip(config.ropes, types, strict=True)
        ),
    )


def _gguf(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Where there are windows, layers without one aren't rotated."""
    if not any(config.windows):
        return config
    layers = zip(config.ropes, config.windows, strict=True)
    return replace(config, ropes=tuple(rope if window else None for rope, window in layers))


EXAONE4 = Family(
    architecture="exaone4",
    read_config=_exaone4,
    names=NAMES_OF_NORMS_BEHIND,
    gguf=Gguf(architecture="exaone4", facts=_FACTS, full_period=4, adjust=_gguf),
)
