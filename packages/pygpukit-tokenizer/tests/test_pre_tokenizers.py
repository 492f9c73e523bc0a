"""Every pre-tokenizer, against the reference: pieces, and where they come from."""

from __future__ import annotations

import json
from typing import Any

import pytest
import strategies as our
from files import bpe, byte_alphabet, byte_level, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import Both, tokenizers

from pygpukit.tokenizer import TokenizerLoadError
from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.pre_tokenizers import PRE_TOKENIZERS, build_pre_tokenizer
from pygpukit.tokenizer.spec import Spec


def pieces(pre_tokenizer: dict[str, Any], text: str) -> list[tuple[str, tuple[int, int]]]:
    """What the pre-tokenizer makes of a text, without and with the origins, which must agree."""
    built = build_pre_tokenizer(Spec("", pre_tokenizer))
    if not text:
        return []
    aligned = built.split_aligned([AlignedText(text)])
    assert [piece.text for piece in aligned] == built.split([text])
    return [(piece.text, piece.original(0, len(piece.text))) for piece in aligned]


def reference_pieces(pre_tokenizer: dict[str, Any], text: str) -> list[Any]:
    data = file(bpe({}, []), pre_tokenizer=pre_tokenizer)
    reference = tokenizers.Tokenizer.from_str(json.dumps(data)).pre_tokenizer
    found: list[Any] = reference.pre_tokenize_str(text)
    return found


@pytest.mark.parametrize("name", sorted(set(PRE_TOKENIZERS) - {"Sequence"}))
@given(st.data())
def test_each(name: str, data: st.DataObject) -> None:
    pre_tokenizer = data.draw(our.PRE_TOKENIZERS_BY_NAME[name])
    for text in data.draw(st.lists(our.texts(), max_size=5)):
        assert pieces(pre_tokenizer, text) == reference_pieces(pre_tokenizer, text)


def characters(**parts: Any) -> dict[str, Any]:
    """A tokenizer whose tokens are characters, so that offsets show what each comes from."""
    return file(bpe({"<unk>": 0}, [], unk_token="<unk>"), **parts)


@given(
    st.none() | our.NORMALIZERS,
    our.PRE_TOKENIZERS,
    our.ADDED_TOKENS,
    st.lists(our.texts(), min_size=1, max_size=4),
)
def test_with_other_stages(
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any],
    tokens: list[dict[str, Any]],
    texts: list[str],
) -> None:
    data = characters(normalizer=normalizer, pre_tokenizer=pre_tokenizer, added_tokens=tokens)
    both = Both.load(data)
    if both is not None:
        for text in texts:
            both.check(text)


WORDS_ONLY = {
    "type": "Split",
    "pattern": {"Regex": r"\p{L}+|'s|\p{N}+|\n+"},
    "behavior": "Removed",
    "invert": True,
}
BEFORE_E = {"type": "Split", "pattern": {"String": "e"}, "behavior": "MergedWithNext"}


@pytest.mark.parametrize(
    "behind",
    [
        [byte_level()],
        [{"type": "Digits", "individual_digits": True}, byte_level()],
        [{**BEFORE_E, "invert": False}, {"type": "FixedLength", "length": 2}],
        [{"type": "Punctuation"}, {**BEFORE_E, "behavior": "Removed", "invert": True}],
    ],
)
def test_cutting_further_what_something_was_left_out_of(behind: list[dict[str, Any]]) -> None:
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [WORDS_ONLY, *behind]}
    both = Both(characters(pre_tokenizer=pre_tokenizer))
    for text in ("the dog's  12345é\n\n 😀 e", "é", " - ", "ee'see 1"):
        both.check(text)


@given(
    st.none() | our.NORMALIZERS,
    st.lists(our.PRE_TOKENIZERS_BY_NAME["Punctuation"], max_size=1),
    st.booleans(),
    st.sampled_from(["Digits", "Punctuation", "Split"]).flatmap(
        our.PRE_TOKENIZERS_BY_NAME.__getitem__
    ),
    our.texts(),
    st.integers(0, 40),
)
def test_cutting_what_was_spelled(
    normalizer: dict[str, Any] | None,
    before: list[dict[str, Any]],
    use_regex: bool,
    behind: dict[str, Any],
    text: str,
    count: int,
) -> None:
    steps = [*before, byte_level(use_regex=use_regex), behind]
    pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    both = Both.load(characters(normalizer=normalizer, pre_tokenizer=pre_tokenizer))
    if both is not None:
        for each in (text, "1²é, 😀!!" + count * text):
            both.check(each)


@pytest.mark.parametrize(
    ("normalizer", "begin"),
    [
        ({"type": "Replace", "pattern": {"String": ""}, "content": "x"}, ["x", "x"]),
        ({"type": "Replace", "pattern": {"Regex": "^"}, "content": "é"}, ["Ã", "©", "é"]),
        ({"type": "Prepend", "prepend": ""}, ["1", "1"]),
    ],
)
@pytest.mark.parametrize("cut_before", [False, True])
def test_bytes_of_what_comes_from_nowhere(
    normalizer: dict[str, Any], begin: list[str], cut_before: bool
) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    steps = [digits, byte_level(use_regex=False)] if cut_before else [byte_level()]
    pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    vocab = {token: id for id, token in enumerate("1aĠxÃ©é")}
    data = file(bpe(vocab, []), normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    both = Both(data)
    for text in ("1 a1", "1", "1a"):
        both.check(text)
    assert both.tokenizer.encode("1 a1").tokens[: len(begin)] == begin


@pytest.mark.parametrize(
    "behind",
    [
        byte_level(use_regex=False),
        byte_level(),
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False},
    ],
)
def test_what_comes_behind_spelled_bytes(behind: dict[str, Any]) -> None:
    for first in (byte_level(), byte_level(use_regex=False)):
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [first, behind]}
        vocab = {token: id for id, token in enumerate([*byte_alphabet(), "▁"])}
        both = Both(file(bpe(vocab, []), pre_tokenizer=pre_tokenizer))
        for text in (" ", "é 1", "a b"):
            both.check(text)


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        ("Removed", "the|final|countdown"),
        ("Isolated", "the|-|final|-|-|countdown|-"),
        ("MergedWithPrevious", "the-|final-|-|countdown-"),
        ("MergedWithNext", "the|-final|-|-countdown|-"),
        ("Contiguous", "the|-|final|--|countdown|-"),
    ],
)
def test_behaviors(behavior: str, expected: str) -> None:
    split = {"type": "Split", "pattern": {"String": "-"}, "behavior": behavior, "invert": False}
    found = pieces(split, "the-final--countdown-")
    assert "|".join(piece for piece, _ in found) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["▁Hey", "▁", "▁you"]),
        ({"split": False}, ["▁Hey▁▁you"]),
        ({"prepend_scheme": "never"}, ["Hey", "▁", "▁you"]),
        ({"add_prefix_space": False, "prepend_scheme": "never"}, ["Hey", "▁", "▁you"]),
        ({"add_prefix_space": True, "str_rep": "▁"}, ["▁Hey", "▁", "▁you"]),
    ],
)
def test_metaspace(fields: dict[str, Any], expected: list[str]) -> None:
    metaspace = {"type": "Metaspace", "replacement": "▁", **fields}
    assert [piece for piece, _ in pieces(metaspace, "Hey  you")] == expected
    assert [piece for piece, _ in reference_pieces(metaspace, "Hey  you")] == expected


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"type": "Metaspace", "replacement": "ab"}, "replacement: expected one character"),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "x"}, "prepend_scheme"),
        (
            {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False},
            "add_prefix_space false contradicts",
        ),
        ({"type": "CharDelimiterSplit", "delimiter": ""}, "delimiter: expected one character"),
        ({"type": "FixedLength", "length": 0}, "length"),
        ({"type": "FixedLength", "length": -1}, "length"),
        ({"type": "Digits"}, 'missing field "individual_digits"'),
    ],
)
def test_wrong_fields(component: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerLoadError, match=message):
        build_pre_tokenizer(Spec("", component))
