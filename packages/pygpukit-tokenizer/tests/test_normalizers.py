"""Every normalizer, against the reference: texts, and where their characters come from."""

from __future__ import annotations

import json
from typing import Any

import pytest
import strategies as our
from charsmap import precompiled_charsmap
from files import added_token, bpe, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import PANIC, Both, attempt, tokenizers

from pygpukit.tokenizer import TokenizerLoadError
from pygpukit.tokenizer.normalizers import NORMALIZERS, build_normalizer
from pygpukit.tokenizer.spec import Spec


def characters(normalizer: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A tokenizer whose tokens are characters, so that offsets show what each comes from."""
    model = bpe({"<unk>": 0}, [], unk_token="<unk>")
    return file(model, normalizer=normalizer, **parts)


def check(normalizer: dict[str, Any], texts: list[str]) -> None:
    reference = attempt(lambda: tokenizers.Tokenizer.from_str(json.dumps(characters(normalizer))))
    if reference is PANIC:
        return
    if reference is None:
        with pytest.raises(TokenizerLoadError):
            build_normalizer(Spec("normalizer", normalizer))
        return
    ours = build_normalizer(Spec("normalizer", normalizer))
    both = Both(characters(normalizer))
    for text in texts:
        expected = attempt(lambda text=text: reference.normalizer.normalize_str(text))
        if expected is not None and expected is not PANIC:
            assert ours.normalize(text) == expected
            both.check(text)


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@given(st.data())
def test_each(name: str, data: st.DataObject) -> None:
    normalizer = data.draw(our.NORMALIZERS_BY_NAME[name])
    check(normalizer, data.draw(st.lists(our.texts(), max_size=5)))


@given(our.NORMALIZERS, our.ADDED_TOKENS, st.lists(our.texts(), min_size=1, max_size=4))
def test_with_added_tokens(
    normalizer: dict[str, Any], tokens: list[dict[str, Any]], texts: list[str]
) -> None:
    both = Both.load(characters(normalizer, added_tokens=tokens))
    if both is not None:
        for text in texts:
            both.check(text)


@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        ({"type": "Lowercase"}, "ΑΣ İ", "ας i̇".replace("ς", "σ")),
        ({"type": "Replace", "pattern": {"String": ""}, "content": "-"}, "ab", "-a-b-"),
        ({"type": "Replace", "pattern": {"Regex": "(b)"}, "content": r"\1$1"}, "ab", r"a\1$1"),
        ({"type": "Prepend", "prepend": "▁"}, "", ""),
        ({"type": "Prepend", "prepend": ""}, "a b", "a b"),
        ({"type": "Nmt"}, "a\x01\u200bb\x0b", "a b"),
        ({"type": "Strip", "strip_left": True, "strip_right": False}, "\u3000 a ", "a "),
        ({"type": "StripAccents"}, "e\u0301é", "eé"),
        ({"type": "ByteLevel"}, " é", "ĠÃ©"),
    ],
)
def test_examples(normalizer: dict[str, Any], text: str, expected: str) -> None:
    assert build_normalizer(Spec("", normalizer)).normalize(text) == expected
    check(normalizer, [text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("é 中\x00\t", "e  中  "),
        ("\u2b820\U0002b820", "\u2b820\U0002b820"),
        # Not accents, but canonical order moves them.
        ("a\u302e\u0301\u302a", "a\u302e"),
    ],
)
def test_bert(text: str, expected: str) -> None:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    assert build_normalizer(Spec("", normalizer)).normalize(text) == expected
    check(normalizer, [text])


def test_what_is_dropped_behind_an_insertion() -> None:
    charsmap = precompiled_charsmap({"x": "abc", "-": "", "+": "", "e": ""})
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    check(
        normalizer, ["x-y", "x-+y", "x--++y", "-x-", "a-y", "--a", "x", "-", "ax-x-a", "e\u0301 -a"]
    )


@pytest.mark.parametrize("charsmap", ["", "AAAA", "!", "/////w==", "BAAAAA=="])
def test_broken_charsmaps(charsmap: str) -> None:
    with pytest.raises(TokenizerLoadError, match="precompiled_charsmap"):
        build_normalizer(Spec("", {"type": "Precompiled", "precompiled_charsmap": charsmap}))


def test_a_token_matches_what_the_normalizer_makes_of_it() -> None:
    normalizer = {"type": "Lowercase"}
    token = added_token("DAY", normalized=True, special=False)
    both = Both(characters(normalizer, added_tokens=[token]))
    both.check("a Day")
    assert both.tokenizer.encode("a Day").tokens[-1] == "day"
