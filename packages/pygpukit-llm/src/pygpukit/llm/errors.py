"""What can go wrong, as types: every error of this package is a `PygpukitError`."""

from __future__ import annotations

from pygpukit.core import PygpukitError

__all__ = [
    "ChatTemplateError",
    "ConfigError",
    "ContextLengthError",
    "DtypeError",
    "GrammarError",
    "LogitsError",
    "ModelNotFoundError",
    "PromptError",
    "RequestCancelledError",
    "RequestExpiredError",
    "SamplingError",
    "WeightsError",
]


class ModelNotFoundError(PygpukitError, FileNotFoundError):
    """No model at the path or hub id that was given."""

    __str__ = Exception.__str__  # OSError's own would show only an errno


class ConfigError(PygpukitError, ValueError):
    """A configuration key is missing, malformed, unknown, or asks for what isn't supported."""


class WeightsError(PygpukitError, ValueError):
    """Tensors of the checkpoint are missing, left over, or of the wrong shape or dtype."""


class DtypeError(PygpukitError, ValueError):
    """The device has no activations of the type that was asked for."""


class PromptError(PygpukitError, ValueError):
    """The prompt is empty or of the wrong type, holds an unknown id, or needs a tokenizer."""


class ContextLengthError(PromptError):
    """The prompt is longer than the model's context."""


class SamplingError(PygpukitError, ValueError):
    """A generation argument is out of its range."""


class GrammarError(PygpukitError, ValueError):
    """A grammar for the output isn't understood, or can't be followed."""


class ChatTemplateError(PygpukitError, ValueError):
    """The model has no chat template, or the template refuses the messages."""


class RequestCancelledError(PygpukitError, RuntimeError):
    """A request has been ended because what ran it is closing."""


class RequestExpiredError(PygpukitError, TimeoutError):
    """A request was not done in the time that it had."""

    __str__ = Exception.__str__  # OSError's own would show only an errno


class LogitsError(PygpukitError, ArithmeticError):
    """The model computed a NaN or an infinite logit: its weights or the run are broken."""

    def __init__(
        self,
        message: str = (
            "the model computed a NaN or infinite logit; its weights are damaged, or its "
            "activations leave the range of the arithmetic"
        ),
    ) -> None:
        super().__init__(message)
