"""Language models on pygpukit: `LLM.from_pretrained("model/").generate("Hello")`.

Nothing is imported before it is used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygpukit.llm.async_llm import AsyncLLM
    from pygpukit.llm.chat import ChatTemplate
    from pygpukit.llm.config import ModelConfig
    from pygpukit.llm.errors import (
        ChatTemplateError,
        ConfigError,
        ContextLengthError,
        DtypeError,
        GrammarError,
        LogitsError,
        ModelNotFoundError,
        PromptError,
        RequestCancelledError,
        RequestExpiredError,
        SamplingError,
        WeightsError,
    )
    from pygpukit.llm.generation import Generation, Score, TokenLogprobs, Usage
    from pygpukit.llm.layers import LayerNorm, Linear, RMSNorm, TransformerBlock
    from pygpukit.llm.llm import LLM, GenerationOptions
    from pygpukit.llm.output import Stream
    from pygpukit.llm.sampling import SamplingParams
    from pygpukit.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "ChatTemplate",
    "ChatTemplateError",
    "ConfigError",
    "ContextLengthError",
    "DtypeError",
    "Generation",
    "GenerationOptions",
    "GrammarError",
    "LayerNorm",
    "Linear",
    "LogitsError",
    "ModelConfig",
    "ModelNotFoundError",
    "PromptError",
    "RMSNorm",
    "RequestCancelledError",
    "RequestExpiredError",
    "SamplingError",
    "SamplingParams",
    "Score",
    "Stream",
    "TokenLogprobs",
    "Tokenizer",
    "TransformerBlock",
    "Usage",
    "WeightsError",
    "__version__",
]

_MODULES = {
    "LLM": "llm.llm",
    "AsyncLLM": "llm.async_llm",
    "ChatTemplate": "llm.chat",
    "Generation": "llm.generation",
    "GenerationOptions": "llm.llm",
    "LayerNorm": "llm.layers",
    "Linear": "llm.layers",
    "ModelConfig": "llm.config",
    "RMSNorm": "llm.layers",
    "SamplingParams": "llm.sampling",
    "Score": "llm.generation",
    "Stream": "llm.output",
    "TokenLogprobs": "llm.generation",
    "Tokenizer": "tokenizer",
    "TransformerBlock": "llm.layers",
    "Usage": "llm.generation",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"pygpukit.{_MODULES.get(name, 'llm.errors')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
