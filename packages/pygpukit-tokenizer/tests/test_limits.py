"""Truncation and padding."""

from __future__ import annotations

from typing import Any

import pytest
from files import file
from hypothesis import given
from hypothesis import strategies as st
from oracle import PANIC, Both, attempt, same_encoding
from strategies import texts

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {
        "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [2, 3], "tokens": ["</s>", "</t>"]},
    },
}
TRUNCATIONS = st.builds(
    lambda length, stride, strategy, direction: {
        "max_length": length,
        "stride": stride,
        "strategy": strategy,
        "direction": direction,
    },
    # With less than the special tokens need the reference wraps around and truncates nothing.
    st.integers(3, 12),
    st.integers(0, 2),
    st.sampled_from(["LongestFirst", "OnlyFirst", "OnlySecond"]),
    st.sampled_from(["Left", "Right"]),
)
PADDINGS = st.builds(
    lambda strategy, direction, multiple: {
        "strategy": strategy,
        "direction": direction,
        "pad_to_multiple_of": multiple,
        "pad_id": 5,
        "pad_type_id": 1,
        "pad_token": "<pad>",
    },
    st.just("BatchLongest") | st.integers(0, 20).map(lambda n: {"Fixed": n}),
    st.sampled_from(["Left", "Right"]),
    st.none() | st.integers(0, 8),
)


@given(
    st.none() | TRUNCATIONS,
    st.none() | PADDINGS,
    st.none() | st.just(TEMPLATE),
    st.lists(texts() | st.tuples(texts(), texts()), min_size=1, max_size=3),
    st.booleans(),
)
def test_limits_in_the_file(
    truncation: dict[str, Any] | None,
    padding: dict[str, Any] | None,
    post_processor: dict[str, Any] | None,
    batch: list[str | tuple[str, str]],
    special: bool,
) -> None:
    data = file(truncation=truncation, padding=padding, post_processor=post_processor)
    both = Both(data)
    expected = attempt(lambda: both.reference.encode_batch(batch, add_special_tokens=special))
    if expected is None or expected is PANIC:
        with pytest.raises(ValueError, match="truncat"):
            both.tokenizer.encode_batch(batch, special)
        return
    found = both.tokenizer.encode_batch(batch, special)
    for one, other in zip(found, expected, strict=True):
        same_encoding(one, other)
    for item in batch:
        both.check(*([item] if isinstance(item, str) else item), add_special_tokens=special)


def test_turning_on_and_off() -> None:
    both = Both(file())
    text = "The quick brown fox jumps"
    for each in (both.reference, both.tokenizer):
        each.enable_truncation(6, stride=2, strategy="only_first", direction="left")
        each.enable_padding(length=8, pad_id=3, pad_token="<p>", direction="left")
    both.check(text)
    assert both.tokenizer.to_dict()["truncation"]["max_length"] == 6
    assert both.tokenizer.to_dict()["padding"]["strategy"] == {"Fixed": 8}
    for each in (both.reference, both.tokenizer):
        each.no_truncation()
        each.no_padding()
    both.check(text)
    assert both.tokenizer.to_dict() == file()


def test_special_tokens_that_alone_are_too_many() -> None:
    tokenizer = Both(file(post_processor=TEMPLATE)).tokenizer
    tokenizer.enable_truncation(2)
    assert len(tokenizer.encode("more than two tokens").ids) == 2
    with pytest.raises(ValueError, match="max_length 2 is less than the 3 special tokens"):
        tokenizer.encode("a", "b")


def test_a_stride_that_leaves_no_room() -> None:
    tokenizer = Both(file(post_processor=TEMPLATE)).tokenizer
    with pytest.raises(ValueError, match="stride 3 must be less than max_length 4"):
        tokenizer.enable_truncation(4, stride=3)
    tokenizer.enable_truncation(5, stride=3)
    with pytest.raises(ValueError, match="stride"):
        tokenizer.encode("many more tokens than there is room for", "and a second text")


@pytest.mark.parametrize(
    "arguments",
    [{"max_length": -1}, {"max_length": 4, "strategy": "x"}, {"max_length": 4, "direction": "up"}],
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Both(file()).tokenizer.enable_truncation(**arguments)
    with pytest.raises(ValueError, match="must"):
        Both(file()).tokenizer.enable_padding(direction="up")
