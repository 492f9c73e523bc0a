"""Comparing with Hugging Face tokenizers. Importing this skips the tests where it isn't there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pygpukit.tokenizer import Encoding, Tokenizer, TokenizerLoadError

tokenizers = pytest.importorskip(
    "tokenizers", reason="differential tests need the PyPI package tokenizers", minversion="0.23"
)

ATTRIBUTES = (
    *("ids", "tokens", "offsets", "word_ids", "type_ids"),
    *("attention_mask", "special_tokens_mask", "sequence_ids"),
)


PANIC = object()
"""What the reference gives where it fails an assertion of its own: then nothing is compared."""


def attempt(call: Callable[[], Any]) -> Any:
    """What the reference gives, None where it refuses, PANIC where it panics."""
    try:
        return call()
    except Exception:
        return None
    except BaseException as error:
        # The class can't be imported.
        if type(error).__name__ != "PanicException":
            raise
        return PANIC


class Both:
    """One file loaded by the reference and by this package."""

    def __init__(self, data: dict[str, Any], reference: Any = None) -> None:
        """``reference`` is the reference's tokenizer of the file if it has loaded it already."""
        self.reference = reference or tokenizers.Tokenizer.from_str(json.dumps(data))
        self.tokenizer = Tokenizer.from_dict(data)

    @classmethod
    def from_source(cls, source: str) -> Both:
        """The contents of a tokenizer.json."""
        both = cls.__new__(cls)
        both.reference = tokenizers.Tokenizer.from_str(source)
        both.tokenizer = Tokenizer.from_str(source)
        return both

    @classmethod
    def load(cls, data: dict[str, Any]) -> Both | None:
        """None where both refuse the file, or where the reference loads it but can't use it."""
        reference = attempt(lambda: tokenizers.Tokenizer.from_str(json.dumps(data)))
        if reference is PANIC:
            return None
        if reference is None:
            with pytest.raises(TokenizerLoadError):
                Tokenizer.from_dict(data)
            return None
        try:
            both = cls(data, reference)
        except TokenizerLoadError as error:
            if "the normalizer leaves nothing of" not in str(error):
                raise
            return None
        added = both.tokenizer.get_added_tokens()
        forms = [both.tokenizer.id_to_token(token.id) for token in added if token.normalized]
        # Of tokens that normalizing makes equal the reference takes any, now this and now that.
        return both if len(set(forms)) == len(forms) else None

    def check(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> None:
        """Compare everything that comes of one text or two."""
        expected = attempt(
            lambda: self.reference.encode(text, pair, add_special_tokens=add_special_tokens)
        )
        if expected is PANIC:
            return
        if expected is None:
            with pytest.raises(ValueError):  # noqa: PT011 - any message
                self.tokenizer.encode(text, pair, add_special_tokens)
            return
        found = self.tokenizer.encode(text, pair, add_special_tokens)
        same_encoding(found, expected)
        if pair is None:
            assert self.tokenizer.encode_ids(text, add_special_tokens) == expected.ids
        self.check_decoding(expected.ids)

    def check_decoding(self, ids: list[int]) -> None:
        """Compare what ids decode to, in one go and as a stream."""
        for skip in (True, False):
            expected = self.reference.decode(ids, skip_special_tokens=skip)
            assert self.tokenizer.decode(ids, skip) == expected
            stream = self.tokenizer.decode_stream(skip)
            pieces = [stream.step(id) for id in ids]
            assert "".join(pieces) + stream.flush() == expected


def same_encoding(found: Encoding, expected: Any) -> None:
    """Assert that two encodings and what they overflow into are equal."""
    for name in ATTRIBUTES:
        assert list(getattr(found, name)) == list(getattr(expected, name)), name
    assert len(found.overflowing) == len(expected.overflowing)
    for part, other in zip(found.overflowing, expected.overflowing, strict=True):
        same_encoding(part, other)
