"""The families of models that are supported: one module for each kin, found by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pygpukit.llm.config import IGNORED, IGNORED_PREFIXES, ModelConfig, read_json
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models import (
    cohere,
    deepseek,
    exaone,
    gemma,
    glm,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    hunyuan,
    llama,
    llama_like,
    minicpm,
    olmo,
    phi,
    phi3,
    qwen,
    stablelm,
    starcoder2,
    with_images,
)
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.quantization import read_scale_block

__all__ = ["FAMILIES", "GGUF_FAMILIES", "Family", "Gguf", "config_from_json", "find_family"]

_MODULES = (
    *(llama, llama_like, qwen, gemma, phi3, gpt2, gpt_neox, cohere, olmo, starcoder2, deepseek),
    *(granite, glm, exaone, hunyuan, minicpm, phi, stablelm, gpt_oss),
    with_images,
)

FAMILIES: Mapping[str, Family] = {
    family.architecture: family
    for module in _MODULES
    for family in (getattr(module, name) for name in module.__all__)
}
"""Every supported family by its `model_type` in config.json."""

GGUF_FAMILIES: Mapping[str, Gguf] = {
    family.gguf.architecture: family.gguf for family in FAMILIES.values() if family.gguf
}
"""Every architecture of GGUF files that is supported, by its `general.architecture`."""

_T = TypeVar("_T")


def find_family(families: Mapping[str, _T], architecture: object, source: str) -> _T:
    """What `families` has for `architecture`.

    Raises:
        ConfigError: There is none; the error lists those there are.
    """
    family = families.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise ConfigError(
            f"{source}: architecture {architecture!r} isn't supported; supported are "
            f"{', '.join(families)}"
        )
    return family


def config_from_json(path: Path) -> ModelConfig:
    """Reads a config.json.

    Raises:
        ConfigError: A key is missing, malformed, not understood, or asks for what isn't supported.
    """
    values = read_json(path)
    family = find_family(FAMILIES, values.get("model_type"), str(path))
    keys = Keys(values, str(path), family.config_keys)
    config = replace(family.read_config(keys), scale_block=read_scale_block(keys))
    keys.finish(IGNORED | family.ignored_keys, IGNORED_PREFIXES)
    return config
