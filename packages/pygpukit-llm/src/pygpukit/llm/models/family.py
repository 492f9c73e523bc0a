"""What a family of models declares: how its config is read and what its tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pygpukit.llm.config import ModelConfig
from pygpukit.llm.keys import Keys

__all__ = ["Family", "Names", "Sources"]

Sources = tuple[tuple[str, ...], ...]
"""Ways to find a weight in a checkpoint; in each, the tensors whose rows follow one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of a checkpoint's tensors, without their ending `.weight` or `.bias`.

    Attributes:
        slots: For each slot of the model (see `weights.py`) where its rows come from. `{layer}`
            stands for the number of a layer.
        prefix: What most names begin with, and what files saved from the bare model leave out.
        transposed: Slots whose matrices are stored (inputs, outputs).
        ignored: Regular expressions of tensors that hold no weights, such as buffers.
    """

    slots: Mapping[str, Sources]
    prefix: str = ""
    transposed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        architecture: `model_type` of config.json and `general.architecture` of GGUF.
        read_config: Builds the config from the keys of config.json.
        names: The names in safetensors files.
        config_keys: For keys that config.json calls otherwise: the common name → the one there.
        ignored_keys: Further keys of config.json that don't change what is computed.
        gguf_facts: Fields of the config that a GGUF file leaves to the architecture.
        gguf_permuted: Whether GGUF files hold the query and key rows of a head interleaved, for
            rotating neighbouring pairs.
    """

    architecture: str
    read_config: Callable[[Keys], ModelConfig]
    names: Names
    config_keys: Mapping[str, str] = field(default_factory=dict)
    ignored_keys: frozenset[str] = frozenset()
    gguf_facts: Mapping[str, Any] = field(default_factory=dict)
    gguf_permuted: bool = False
