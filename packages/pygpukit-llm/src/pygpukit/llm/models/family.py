"""What a family of models declares: how its config is read and what its tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pygpukit.llm.config import ModelConfig, QKNorm
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.names import GGUF_NAMES, Names

__all__ = ["Family", "Gguf", "Names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """One architecture in GGUF files.

    Attributes:
        architecture: `general.architecture`.
        names: The names of the tensors.
        facts: Fields of the config that the file leaves to the architecture.
        qk_norm: How queries and keys are normalised where there are tensors for it.
        rotated: Whether queries and keys are rotated.
        full_period: Of how many layers one has no window, where the file doesn't say; None: each
            has one.
        normalized: Whether the weights of the chosen experts are made to sum to 1, where the file
            doesn't say.
        yarn_truncated: Whether YaRN rounds the dimensions between which it blends.
        log_multiplier_unit: What the file's multiplier of YaRN's logarithm is in units of.
        adjust: What else the architecture does with the config and its own keys.
    """

    architecture: str
    names: Names = GGUF_NAMES
    facts: Mapping[str, Any] = field(default_factory=dict)
    qk_norm: QKNorm = "head"
    rotated: bool = True
    full_period: int | None = None
    normalized: bool = True
    yarn_truncated: bool = True
    log_multiplier_unit: float = 1.0
    adjust: Callable[[ModelConfig, Keys], ModelConfig] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        architecture: `model_type` of config.json.
        read_config: Builds the config from the keys of config.json.
        names: The names in safetensors files.
        config_keys: For keys that config.json calls otherwise: the common name → the one there.
        ignored_keys: Further keys of config.json that don't change what is computed.
        gguf: How GGUF files have it; None where they don't.
    """

    architecture: str
    read_config: Callable[[Keys], ModelConfig]
    names: Names
    config_keys: Mapping[str, str] = field(default_factory=dict)
    ignored_keys: frozenset[str] = frozenset()
    gguf: Gguf | None = None
