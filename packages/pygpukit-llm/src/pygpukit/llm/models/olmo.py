"""OLMo 2 (norms behind attention and MLP, and of all queries and keys at once) and OLMo 3."""

from __future__ import annotations

from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder, read_ropes_by_window, read_windows
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import NAMES_OF_NORMS_BEHIND

__all__ = ["OLMO2", "OLMO3"]

_NORMS_BEHIND = {"pre_norm": False, "post_norm": True}


def _read(keys: Keys, architecture: str, **facts: Any) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    bias = keys.boolean("attention_bias", False)
    return read_decoder(
        keys,
        architecture=architecture,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="row",
        **_NORMS_BEHIND,
        **facts,
    )


def _olmo2(keys: Keys) -> ModelConfig:
    return _read(keys, "olmo2")


OLMO2 = Family(
    architecture="olmo2",
    read_config=_olmo2,
    names=NAMES_OF_NORMS_BEHIND,
    gguf=Gguf(architecture="olmo2", facts=_NORMS_BEHIND, qk_norm="row"),
)


def _olmo3(keys: Keys) -> ModelConfig:
    keys.default("rope_theta", 500000.0)
    windows = read_windows(keys, default=4096, full_period=4)
    ropes = read_ropes_by_window(keys, windows, local_theta=keys.number("rope_theta"))
    return _read(keys, "olmo3", windows=windows, ropes=ropes)


OLMO3 = Family(architecture="olmo3", read_config=_olmo3, names=NAMES_OF_NORMS_BEHIND)
