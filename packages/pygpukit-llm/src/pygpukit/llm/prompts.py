"""What may stand as a prompt, and how it becomes token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

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

    def encode(
        self,
        prompt: Prompt,
        *,
        add_special_tokens: bool = True,
        limited: bool = True,
        name: str = "the prompt",
    ) -> list[int]:
        """The ids of one prompt.

        A text that itself begins with the beginning-of-text token doesn't get a second one.

        Args:
            prompt: The text, or the ids.
            add_special_tokens: Whether a text gets the tokens that the tokenizer puts around it.
            limited: Whether it has to fit into the context.
            name: What error messages call it.

        Raises:
            PromptError: It is empty, of the wrong type, needs a tokenizer, or has an unknown id.
            ContextLengthError: It is longer than the context.
        """
        items: object = prompt
        if isinstance(prompt, str):
            items = self._encode_text(prompt, add_special_tokens, name)
        # Those of a text, too: a tokenizer may have more than the model.
        ids = self._check_ids(items, name)
        if not ids:
            raise PromptError(f"{name} is empty; give at least one token")
        if limited and len(ids) > self._context_length:
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens, more than the model's context of "
                f"{self._context_length}"
            )
        return ids

    def _encode_text(self, text: str, add_special_tokens: bool, name: str) -> list[int]:
        if self._tokenizer is None:
            raise PromptError(f"{name} is a text, but the model has no tokenizer; give token ids")
        try:
            ids = self._tokenizer.encode_ids(text, add_special_tokens=add_special_tokens)
        except UnicodeEncodeError as error:
            raise PromptError(
                f"{name} has {error.object[error.start]!a}, half of a character, where a character "
                "must be; decode its source with the right encoding"
            ) from error
        bos = self._bos_token
        if bos and add_special_tokens and text.startswith(bos):
            bos_id = self._tokenizer.token_to_id(bos)
            if ids[:2] == [bos_id, bos_id] and not text.startswith(bos + bos):
                return ids[1:]
        return ids

    def _check_ids(self, prompt: object, name: str) -> list[int]:
        items = _items(prompt)
        if items is None:
            raise PromptError(
                f"{name} must be a text or a sequence of token ids, got {prompt!r:.80}"
            )
        if set(map(type, items)) == {int}:
            # The usual prompt, at a tenth of the time.
            ids = [*cast("Sequence[int]", items)]
            if min(ids) >= 0 and max(ids) < self._vocab_size:
                return ids
        return [self._check_id(item, name) for item in items]

    def _check_id(self, item: object, name: str) -> int:
        if isinstance(item, bool) or not hasattr(item, "__index__"):
            raise PromptError(f"{name} has {item!r:.80} where a token id must be")
        id_: int = item.__index__()
        if not 0 <= id_ < self._vocab_size:
            raise PromptError(
                f"{name} has the token id {id_}, which isn't in the vocabulary (0 to "
                f"{self._vocab_size - 1})"
            )
        return id_


def is_batch(prompt: object) -> bool:
    """Whether it is a sequence of prompts rather than one."""
    items = _items(prompt)
    if not items:
        return False
    return isinstance(items[0], str) or _items(items[0]) is not None


def _items(value: object) -> Sequence[object] | None:
    """The items of a sequence, an array or a tensor; None for a text and for anything else."""
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        return None
    if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        return None
    to_list = getattr(value, "tolist", None)
    items = to_list() if to_list is not None else value
    return items if isinstance(items, Sequence) else None
