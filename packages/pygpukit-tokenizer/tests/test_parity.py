"""Whole tokenizers put together at random, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import strategies as our
from files import byte_level, byte_level_model, file, suffixed_byte_level_model
from hypothesis import given
from hypothesis import strategies as st
from oracle import Both

from pygpukit.tokenizer import pipeline as pipeline_module

BYTE_LEVEL_FILES = st.builds(
    file,
    st.builds(byte_level_model, ignore_merges=st.booleans()) | st.builds(suffixed_byte_level_model),
    added_tokens=our.ADDED_TOKENS,
    normalizer=st.none() | our.NORMALIZERS,
    pre_tokenizer=st.lists(our.CUTTING_PRE_TOKENIZERS, max_size=2).flatmap(
        lambda steps: our.BYTE_LEVEL_PRE_TOKENIZERS.map(
            lambda last: {"type": "Sequence", "pretokenizers": [*steps, last]}
        )
    ),
    post_processor=st.none()
    | st.builds(byte_level, add_prefix_space=st.booleans(), trim_offsets=st.booleans()),
    decoder=st.just(byte_level()) | st.none(),
)


@pytest.fixture(autouse=True, scope="module", params=[0, 1 << 20], ids=["long", "short"])
def _long_text(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is done differently with long texts is done with all texts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_LONG_TEXT", "_MANY_WORDS"):
            patch.setattr(pipeline_module, name, request.param)
        patch.setattr(pipeline_module, "_BEGINNING", request.param or 1)
        yield


@given(BYTE_LEVEL_FILES, st.lists(our.texts(), min_size=1, max_size=4), st.booleans())
def test_byte_level_bpe(data: dict[str, Any], texts: list[str], special: bool) -> None:
    both = Both.load(data)
    if both is None:
        return
    for text in texts:
        both.check(text, add_special_tokens=special)
    both.check(texts[0], texts[-1], add_special_tokens=special)


@given(BYTE_LEVEL_FILES, st.lists(st.integers(0, 600), max_size=30))
def test_any_ids_decode_alike(data: dict[str, Any], ids: list[int]) -> None:
    both = Both.load(data)
    if both is not None:
        both.check_decoding(ids)
        vocab = both.reference.get_vocab()
        assert both.tokenizer.vocab == vocab
        assert both.tokenizer.vocab_size == len(vocab)
        for id in ids:
            assert both.tokenizer.id_to_token(id) == both.reference.id_to_token(id)
