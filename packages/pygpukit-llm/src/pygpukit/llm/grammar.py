"""Output that follows a grammar: which tokens may come next, by llguidance (the extra `serve`).

llguidance (github.com/guidance-ai/llguidance) walks a grammar and the vocabulary together and tells
for each step the tokens that keep the output within the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pygpukit.llm.errors import GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from pygpukit.tokenizer import Tokenizer

__all__ = ["Constraint", "Grammars"]


class Constraint:
    """What one output may still become.

    Args:
        matcher: Has taken the ids so far.
        vocab_size: Of the model.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._allowed = b""
        self._bias = b""

    def bias(self) -> bytes:
        """float32 for each id: 0 where it may come next, -∞ where not.

        As long as the same ids may come it is the same object, which isn't copied again.
        """
        import numpy as np

        mask = self._matcher.compute_logit_bias()
        if not self._bias or mask != self._allowed:
            allowed = np.frombuffer(mask, np.uint8)[: self._vocab_size]
            bias = np.full(self._vocab_size, -np.inf, np.float32)
            bias[: len(allowed)][allowed > 0] = 0
            self._allowed, self._bias = mask, bias.tobytes()
        return self._bias

    def take(self, id_: int) -> None:
        """Goes on to the next step.

        Raises:
            GrammarError: The id may not come next, or the grammar has become too complex.
        """
        if not self._matcher.consume_token(id_):
            raise GrammarError(f"the grammar can't be followed: {self._matcher.get_error()}")


class Grammars:
    """Makes constraints for the outputs of a model.

    Args:
        tokenizer: Of the model.
        vocab_size: Of the model.
        end_ids: Ids that end the output, which they may do where the grammar is complete.

    Raises:
        GrammarError: llguidance isn't installed, or the model has no token that ends the output.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Iterable[int]) -> None:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError as error:
            raise GrammarError(
                "llguidance is missing; install it: pip install 'pygpukit-llm[serve]'"
            ) from error
        ends = sorted(end_ids)
        if not ends:
            raise GrammarError("the model has no token that ends the output, which grammars need")
        vocabulary = _Vocabulary(tokenizer, vocab_size, ends[0])
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), vocab_size, ends)
        self._vocab_size = vocab_size

    def json(self, schema: Mapping[str, Any] | None = None) -> Constraint:
        """JSON of a schema; without one any object.

        Raises:
            GrammarError: The schema isn't understood.
        """
        from llguidance import LLMatcher

        text = json.dumps({"type": "object"} if schema is None else schema)
        try:
            return self._constraint(LLMatcher.grammar_from_json_schema(text))
        except ValueError as error:
            raise GrammarError(f"the JSON schema isn't understood: {error}") from error

    def regex(self, pattern: str) -> Constraint:
        """Text that a regular expression matches as a whole.

        Raises:
            GrammarError: The expression isn't understood.
        """
        from llguidance import LLMatcher

        return self._constraint(LLMatcher.grammar_from_regex(pattern))

    def lark(self, grammar: str) -> Constraint:
        """Text of a grammar in Lark's notation.

        Raises:
            GrammarError: The grammar isn't understood.
        """
        from llguidance import LLMatcher

        return self._constraint(LLMatcher.grammar_from_lark(grammar))

    def _constraint(self, grammar: str) -> Constraint:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"the grammar isn't understood: {matcher.get_error()}")
        return Constraint(matcher, self._vocab_size)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        found = [tokenizer.token_bytes(id_) for id_ in range(vocab_size)]
        self.eos_token_id = end_id
        self.bos_token_id = None
        # Special tokens have a name, but no text.
        self.tokens = [
            f"<|{id_}|>".encode() if token is None else token for id_, token in enumerate(found)
        ]
        self.special_token_ids = [id_ for id_, token in enumerate(found) if token is None]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_ids(text, add_special_tokens=False)
