"""What can go wrong with an HTTP request, as OpenAI's API tells it."""

from __future__ import annotations

from typing import Any

from pygpukit.core import QueueFullError, RequestRefusedError
from pygpukit.llm.errors import (
    ChatTemplateError,
    ContextLengthError,
    GrammarError,
    PromptError,
    RequestCancelledError,
    RequestExpiredError,
    SamplingError,
)

__all__ = ["ApiError", "as_api_error"]

RETRY_SECONDS = 2
"""When a client that was refused for want of room may try again."""


class ApiError(Exception):
    """A request that can't be answered.

    Attributes:
        status: Of the HTTP response.
        code: What a program may look for.
        param: The key of the body that is wrong.
        retry_after: Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def as_api_error(error: Exception) -> ApiError | None:
    """How an error of the model is told; None for one that isn't expected."""
    message = str(error)
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, message, code="queue_full", retry_after=RETRY_SECONDS)
        case RequestCancelledError():
            return ApiError(503, message, code="stopping", retry_after=RETRY_SECONDS)
        case RequestExpiredError():
            return ApiError(503, message, code="time_limit", retry_after=RETRY_SECONDS)
        case ContextLengthError() | RequestRefusedError():
            return ApiError(400, message, code="context_length_exceeded")
        case ChatTemplateError():
            # Where the model's files are is nothing for clients.
            message = message[max(0, message.find("chat template:")) :]
            return ApiError(400, message, param="messages")
        case GrammarError():
            return ApiError(400, message, param="response_format")
        case PromptError() | SamplingError():
            return ApiError(400, message)
        case _:
            return None
