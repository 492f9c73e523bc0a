"""Loading and saving: what is refused, where the message points, and what comes back."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from files import added_token, bpe, byte_level, byte_level_merges, byte_level_model, file

from pygpukit.tokenizer import Tokenizer, TokenizerLoadError
from pygpukit.tokenizer.byte_alphabet import ALPHABET
from pygpukit.tokenizer.models import merges

TEMPLATE = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}


def sequence(key: str, *parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: list(parts)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"version": "2.0"}, "version: unknown version '2.0'"),
        ({"extra": 1}, "extra: unknown field"),
        ({"model": []}, "model: expected an object, found list"),
        ({"model": {"vocab": {}}}, "model: no type given"),
        ({"model": {"type": "Magic"}}, 'model: unknown type "Magic"'),
        ({"normalizer": {"type": "Nope"}}, 'normalizer: unknown type "Nope"'),
        (
            {"normalizer": sequence("normalizers", {"type": "NFC"}, {"type": "Nope"})},
            'normalizer.normalizers[1]: unknown type "Nope"',
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", byte_level(use_regex=3))},
            "pre_tokenizer.pretokenizers[0].use_regex: expected bool, found int",
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "(a"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            "pre_tokenizer.pattern: pattern '(a', at 2: end pattern",
        ),
        (
            {"pre_tokenizer": {"type": "Punctuation", "behavior": "Sideways"}},
            'pre_tokenizer: behavior: unknown value "Sideways"',
        ),
        ({"decoder": {"type": "Nope"}}, 'decoder: unknown type "Nope"'),
        (
            {"post_processor": {**TEMPLATE, "single": [{"Sequence": {"id": "B", "type_id": 0}}]}},
            "post_processor.single",
        ),
        (
            {"post_processor": {**TEMPLATE, "pair": [{"SpecialToken": {"id": "x", "type_id": 0}}]}},
            "'x' isn't among the special_tokens",
        ),
        ({"added_tokens": [{"id": 1}]}, 'added_tokens[0]: missing field "content"'),
        ({"added_tokens": [added_token("x", lstrip=None)]}, "added_tokens[0].lstrip"),
        ({"truncation": {"max_length": 3}}, 'truncation: missing field "strategy"'),
        ({"padding": {"strategy": "Nope"}}, "padding.strategy: unknown strategy 'Nope'"),
    ],
)
def test_errors_name_the_component_and_its_place(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerLoadError) as caught:
        Tokenizer.from_dict(file(**parts))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "rules", "message"),
    [
        ({"a": 0, "b": 1}, ["a b"], "model.merges: [0] needs token 'ab'"),
        ({"a": 0, "b": 1, "ab": 2}, ["a b", "ab c"], "model.merges: [1] needs token 'c'"),
        ({"a": 0, "ab": 1, "abc": 2}, ["a b", "ab c"], "model.merges: [0] needs token 'b'"),
        ({"a": 0, "b": 1, "ab": 2, "abc": 3}, ["a b", "ab c"], "[1] needs token 'c'"),
        ({"a": 0, "b": 1, "ab": 2}, ["a b", "a  b"], "model.merges: [1] isn't two tokens"),
        ({"a": 0, "b": 1, "ab": 2}, [["a", "b"], ["a"]], "model.merges: [1] isn't two tokens"),
        ({"a": 0, "b": 1, "ab": 2}, [["a", "b"], ["a", 1]], "model.merges: [1] isn't two tokens"),
        ({"a": 0, "b": 1, "ab": 2}, [["a", "b"], 7], "model.merges: [1] isn't two tokens: 7"),
        ({"a": 0}, "a", "model.merges: expected list, found str"),
        ({"a": "0"}, [], "model.vocab: the id of 'a' isn't a natural number: '0'"),
        ({"a": -1}, [], "model.vocab: the id of 'a' isn't a natural number: -1"),
        ({"a": True}, [], "model.vocab: the id of 'a' isn't a natural number: True"),
    ],
)
@pytest.mark.parametrize("few", [0, merges._FEW])
def test_wrong_vocabularies(
    vocab: dict[str, Any], rules: Any, message: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check of long lists of merges finds the same.
    monkeypatch.setattr(merges, "_FEW", few)
    with pytest.raises(TokenizerLoadError) as caught:
        Tokenizer.from_dict(file(bpe(vocab, rules)))
    assert message in str(caught.value)


def test_forms_of_merges() -> None:
    pairs = byte_level_model()
    joined = {**pairs, "merges": ["#version: 0.2", *(" ".join(p) for p in byte_level_merges())]}
    typeless = {key: value for key, value in joined.items() if key != "type"}
    text = "The quick brown fox, über"
    expected = Tokenizer.from_dict(file(pairs)).encode_ids(text)
    for model in (joined, typeless):
        tokenizer = Tokenizer.from_dict(file(model))
        assert tokenizer.encode_ids(text) == expected
        assert tokenizer.to_dict()["model"]["merges"] == joined["merges"][1:]


@pytest.mark.parametrize("rules", [["a b"], [["a", "b"]], ["#version: 0.2", "a b"]])
@pytest.mark.parametrize("letters", ["ab", ALPHABET])
def test_good_merges_are_looked_at_all_at_once(
    letters: str, rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merges, "_FEW", 0)
    monkeypatch.delattr(merges, "_checked")
    vocab = {token: i for i, token in enumerate([*letters, "ab", "<x>"])}
    assert Tokenizer.from_dict(file(bpe(vocab, rules))).encode("ab").tokens == ["ab"]


def test_the_last_of_equal_merges_counts() -> None:
    vocab = {t: i for i, t in enumerate(["a", "b", "c", "ab", "bc"])}
    tokenizer = Tokenizer.from_dict(file(bpe(vocab, [["a", "b"], ["b", "c"], ["a", "b"]])))
    assert tokenizer.encode("abc").tokens == ["a", "bc"]


def test_files(tmp_path: Path) -> None:
    data = file(added_tokens=[added_token("<s>", id=556)])
    path = tmp_path / "tokenizer.json"
    Tokenizer.from_dict(data).save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == data
    for source in (path, str(path), tmp_path, str(tmp_path)):
        assert Tokenizer.from_pretrained(source).to_dict() == data
    assert Tokenizer.from_file(path).encode_ids("<s>") == [556]
    assert Tokenizer.from_str(Tokenizer.from_file(path).to_str()).to_dict() == data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "expected an object, found list"),
        (b'{"version": NaN}', "NaN is no JSON value"),
        (b"\xef\xbb\xbf{}", "not valid JSON: Unexpected UTF-8 BOM"),
        (b'{"version": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerLoadError) as caught:
        Tokenizer.from_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_loading_leaves_garbage_collection_as_it_was() -> None:
    text = Tokenizer.from_dict(file()).to_str()
    assert gc.isenabled()
    Tokenizer.from_str(text)
    assert gc.isenabled()
    gc.disable()
    try:
        Tokenizer.from_str(text)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_representation() -> None:
    tokenizer = Tokenizer.from_dict(file(added_tokens=[added_token("<s>")]))
    assert repr(tokenizer) == "Tokenizer(BPE, 557 tokens, 1 added)"
    assert "lstrip" not in repr(tokenizer.get_added_tokens()[0])
    assert repr(tokenizer.encode("")) == "Encoding(0 tokens, ids=[])"
