"""Language models on pygpukit: `LLM.from_pretrained("model/").generate("Hello")`.

Nothing is imported before it is used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygpukit.llm.chat import ChatTemplate
    from pygpukit.llm.config import ModelConfig
    from pygpukit.llm.errors import (
        ChatTemplateError,
        ConfigError,
        ContextLengthError,
        LogitsError,
        ModelNotFoundError,
        PromptError,
        SamplingError,
        WeightsError,
    )
    from pygpukit.llm.generation import Generation, Score, TokenLogprobs, Usage
    from pygpukit.llm.llm import LLM, GenerationOptions
    from pygpukit.llm.output import Stream
    from pygpukit.llm.sampling import SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "ChatTemplate",
    "ChatTemplateError",
    "ConfigError",
    "ContextLengthError",
    "Generation",
    "GenerationOptions",
    "LogitsError",
    "ModelConfig",
    "ModelNotFoundError",
    "PromptError",
    "SamplingError",
    "SamplingParams",
    "Score",
    "Stream",
    "TokenLogprobs",
    "Usage",
    "WeightsError",
    "__version__",
]

_MODULES = {
    "LLM": "llm",
    "ChatTemplate": "chat",
    "Generation": "generation",
    "GenerationOptions": "llm",
    "ModelConfig": "config",
    "SamplingParams": "sampling",
    "Score": "generation",
    "Stream": "output",
    "TokenLogprobs": "generation",
    "Usage": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
