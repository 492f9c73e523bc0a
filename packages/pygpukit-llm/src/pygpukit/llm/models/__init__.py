"""The families of models that are supported: one module for each kin, found by name."""

from __future__ import annotations

from pathlib import Path

from pygpukit.llm.config import IGNORED, IGNORED_PREFIXES, ModelConfig, read_json
from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family
from pygpukit.llm.models.gpt2 import GPT2
from pygpukit.llm.models.llama import LLAMA, MISTRAL
from pygpukit.llm.models.qwen import QWEN2, QWEN3

__all__ = ["FAMILIES", "Family", "config_from_json", "find_family"]

FAMILIES = {family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2)}
"""Every supported family by its `model_type` in config.json, `general.architecture` in GGUF."""


def find_family(architecture: object, source: str) -> Family:
    """The family called `architecture`.

    Raises:
        ConfigError: There is none; the error lists those there are.
    """
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise ConfigError(
            f"{source}: architecture {architecture!r} isn't supported; supported are "
            f"{', '.join(FAMILIES)}"
        )
    return family


def config_from_json(path: Path) -> ModelConfig:
    """Reads a config.json.

    Raises:
        ConfigError: A key is missing, malformed, not understood, or asks for what isn't supported.
    """
    values = read_json(path)
    family = find_family(values.get("model_type"), str(path))
    keys = Keys(values, str(path), family.config_keys)
    config = family.read_config(keys)
    keys.finish(IGNORED | family.ignored_keys, IGNORED_PREFIXES)
    return config
