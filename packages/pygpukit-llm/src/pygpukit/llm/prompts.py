"""What may stand as a prompt, and how it becomes token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from pygpukit.llm.errors import ContextLengthError, PromptError

if TYPE_CHECKING:
    from pygpukit.tokenizer import Tokenizer

__all__ = ["Prompt", "PromptEncoder", "is_batch"]

Prompt: TypeAlias = str | Sequence[int]
"""A text or the ids of one."""


class PromptEncoder:
    """Turns prompts into checked ids.

    Args:
        tokenizer: For texts; None where the model has none.
        vocab_size: Ids lie below it.
        context_length: The most ids that a prompt can have.
        bos_token: The text that begins a text, if the model names it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        vocab_size: int,
        context_length: int,
        bos_token: str | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._bos_token = bos_token

    def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of one prompt.

        A text that itself begins with the beginning-of-text token doesn't get a second one.

        Raises:
            PromptError: It is empty, of the wrong type, needs a tokenizer, or has an unknown id.
            ContextLengthError: It is longer than the context.
        """
        if isinstance(prompt, str):
            ids = self._encode_text(prompt, add_special_tokens)
        else:
            ids = self._check_ids(prompt)
        if not ids:
            raise PromptError("the prompt is empty; give at least one token")
        if len(ids) > self._context_length:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, more than the model's context of "
                f"{self._context_length}"
            )
        return ids

    def _encode_text(self, text: str, add_special_tokens: bool) -> list[int]:
        if self._tokenizer is None:
            raise PromptError("the model has no tokenizer; give the prompt as token ids")
        ids = self._tokenizer.encode_ids(text, add_special_tokens=add_special_tokens)
        bos = self._bos_token
        if bos and add_special_tokens and text.startswith(bos):
            bos_id = self._tokenizer.token_to_id(bos)
            if ids[:2] == [bos_id, bos_id] and not text.startswith(bos + bos):
                return ids[1:]
        return ids

    def _check_ids(self, prompt: object) -> list[int]:
        try:
            ids = [_index(id_) for id_ in prompt]  # type: ignore[attr-defined]
        except TypeError:
            raise PromptError(
                f"a prompt must be a text or a sequence of token ids, got {prompt!r:.80}"
            ) from None
        for id_ in ids:
            if not 0 <= id_ < self._vocab_size:
                raise PromptError(
                    f"token id {id_} isn't in the vocabulary (0 to {self._vocab_size - 1})"
                )
        return ids


def is_batch(prompt: object) -> bool:
    """Whether it is a list of prompts rather than one."""
    if isinstance(prompt, (str, bytes)) or not isinstance(prompt, Iterable):
        return False
    first = next(iter(prompt), None)
    return isinstance(first, str) or (isinstance(first, Iterable) and not isinstance(first, bytes))


def _index(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    return value.__index__()  # type: ignore[attr-defined, no-any-return]
