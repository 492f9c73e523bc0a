"""Every model, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import models as our_models
import pytest
import strategies as our
from files import added_token, bpe, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import Both

from pygpukit.tokenizer import Tokenizer, TokenizerLoadError, possessive
from pygpukit.tokenizer.models import MODELS
from pygpukit.tokenizer.models import bpe as bpe_module
from pygpukit.tokenizer.models import unigram as unigram_module

WORTH_CUTTING = {"cut": 0, "cut by atomic groups": 0, "uncut": 1 << 20}


@pytest.fixture(autouse=True, scope="module", params=WORTH_CUTTING)
def _worth_cutting(request: pytest.FixtureRequest) -> Iterator[None]:
    """All ways with texts that pre-tokenizers leave long."""
    with pytest.MonkeyPatch.context() as patch:
        if "atomic" in request.param:
            patch.setattr(possessive, "_WORK", False)
        for module in (bpe_module, unigram_module):
            patch.setattr(module, "_WORTH_CUTTING", WORTH_CUTTING[request.param])
        patch.setattr(unigram_module, "_WORTH_INDEXING", WORTH_CUTTING[request.param])
        yield


@pytest.mark.parametrize("name", sorted(MODELS))
@given(st.data())
def test_each(name: str, data: st.DataObject) -> None:
    both = Both.load(file(data.draw(our_models.MODELS_BY_NAME[name])))
    if both is None:
        return
    for word in data.draw(st.lists(our_models.WORDS | our.texts(), max_size=6)):
        both.check(word)
    ids = data.draw(st.lists(st.integers(0, 40), max_size=6))
    both.check_decoding(ids)
    assert both.tokenizer.vocab == both.reference.get_vocab()
    assert both.tokenizer.vocab_size == both.reference.get_vocab_size()


@given(our_models.unigrams_of_parts(), st.lists(our_models.PARTED_WORDS, max_size=6))
def test_unigram_by_parts(model: dict[str, Any], words: list[str]) -> None:
    both = Both(file(model))
    for word in words:
        both.check(word)


@given(
    our_models.MODELS,
    st.none() | our.PRE_TOKENIZERS,
    st.none() | our.DECODERS,
    our.ADDED_TOKENS,
    st.lists(our_models.WORDS | our.texts(), min_size=1, max_size=3),
)
def test_with_other_stages(
    model: dict[str, Any],
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any] | None,
    tokens: list[dict[str, Any]],
    texts: list[str],
) -> None:
    data = file(model, pre_tokenizer=pre_tokenizer, decoder=decoder, added_tokens=tokens)
    both = Both.load(data)
    if both is not None:
        for text in texts:
            both.check(text)


@pytest.mark.parametrize("fuse_unk", [False, True])
def test_a_pending_unknown_comes_out_behind_byte_tokens(fuse_unk: bool) -> None:
    vocab = {"<unk>": 0, **{f"<0x{b:02X}>": b + 1 for b in range(0x80)}}
    both = Both(file(bpe(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=fuse_unk)))
    both.check("éx")
    assert both.tokenizer.encode("éx").tokens == ["<0x78>", "<unk>"]


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_the_bytes_of_affixes_stand_for_no_text(affix: str) -> None:
    vocab = {f"<0x{b:02X}>": b for b in range(0x100)}
    both = Both(file(bpe(vocab, [], byte_fallback=True, **{affix: "#"})))
    encoding = both.tokenizer.encode("aé")
    assert encoding.ids == both.reference.encode("aé").ids
    if affix == "end_of_word_suffix":
        assert encoding.offsets == [(0, 1), (1, 2), (1, 2), (1, 2)]
    else:
        assert encoding.offsets == [(0, 1), (0, 1), (1, 2), (1, 2)]


@pytest.mark.parametrize("known", [[], ["▁"], ["▁0"], ["0"]])
def test_bytes_of_what_is_put_in_front_share_the_first_character(known: list[str]) -> None:
    tokens = ["<unk>", *known, *(f"<0x{byte:02X}>" for byte in range(0x100))]
    vocab = [[token, 0.0] for token in tokens]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    steps = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]}
    both = Both(file(model, pre_tokenizer=steps))
    for text in ("0", "0 0", "ab 0é", "é0"):
        both.check(text)


def test_words_are_cut_only_where_no_token_reaches_across() -> None:
    letters = ["▁", "a", "b", ">", "<"]
    merges = [["▁", "a"], ["▁", "<"], [">", "▁<"], ["b", "a"], ["▁a", "b"]]
    tokens = ["<unk>", *letters, *(left + right for left, right in merges)]
    vocab = {token: id for id, token in enumerate(tokens)}
    both = Both(file(bpe(vocab, merges, unk_token="<unk>")))
    for text in ("a▁ab▁▁a>▁<▁a", "▁▁▁", ">▁", "b▁>▁<b▁a>▁<▁<a", ""):
        both.check(text)
    model = both.tokenizer._model
    if bpe_module._WORTH_CUTTING == 0:
        assert model.words("a▁ab▁▁a>▁<▁a") == ["a", "▁ab", "▁▁a", ">▁<", "▁a"]


def test_words_between_added_tokens_are_cut_alike() -> None:
    merges = [["▁", "a"], ["a", "b"], ["▁a", "b"]]
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    tokens = ["<unk>", "▁", "a", "b", " ", *(left + right for left, right in merges)]
    both = Both(
        file(
            bpe({token: id for id, token in enumerate(tokens)}, merges, unk_token="<unk>"),
            pre_tokenizer=spaces | {"invert": False},
            added_tokens=[added_token("|", normalized=False)],
        )
    )
    for text in ("|a▁ab||▁▁a|b▁a", "▁ab|ab ▁a|▁ab", "a|b", "||", "|"):
        both.check(text)


def test_words_where_only_letters_are_tokens() -> None:
    vocab = {token: id for id, token in enumerate(["<unk>", "▁", "w", "w▁", "ww"])}
    both = Both(file(bpe(vocab, [["w", "▁"], ["w", "w"]], unk_token="<unk>")))
    for text in ("w▁w", "▁▁ww▁▁", "▁x▁w▁"):
        both.check(text)


def test_where_words_are_cut_depends_on_what_merges_give() -> None:
    letters = ["▁", "a", ",", ".", "é", "”", "1"]
    merges = [["a", ","], ["”", "."]]
    vocab = {t: i for i, t in enumerate([*letters, "a,", "”.", "a.", "<a>", "<unk>"])}
    both = Both(file(bpe(vocab, merges, unk_token="<unk>", fuse_unk=True)))
    for text in ("a,a.a”.é1,", "▁a.▁”a,.1▁", "11a1", "²a.²", ".", "a"):
        both.check(text)
    if bpe_module._WORTH_CUTTING == 0:
        words = both.tokenizer._model.words("a,a.a”.é1,")
        assert words == ["a,a", ".", "a”.", "é", "1,"]


@given(st.lists(st.floats(-20, -1), min_size=3, max_size=3))
def test_scores_are_as_the_reference_reads_them(scores: list[float]) -> None:
    # Which of "p", "pp" and "pp", "p" has the greater sum is a matter of rounding.
    vocab = [["<unk>", 0.0], *map(list, zip(["/", "p", "pp"], scores, strict=True))]
    both = Both(file({"type": "Unigram", "vocab": vocab, "unk_id": 0}))
    for text in ("/ppp", "p/ppp", "//ppp/ppppp"):
        both.check(text)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"type": "Unigram", "vocab": [["a"]]},
            r"model.vocab: \[0\] isn't a token with its score: \['a'\]",
        ),
        ({"type": "Unigram", "vocab": [["a", "b"]]}, "isn't a token with its score"),
        ({"type": "Unigram", "vocab": [["a", True]]}, "isn't a token with its score"),
        ({"type": "Unigram", "vocab": [["a", 1]], "unk_id": 1}, "unk_id: 1 isn't an index"),
        ({"type": "Unigram", "vocab": {}}, "model.vocab: expected list, found dict"),
        ({"type": "WordLevel", "vocab": {}}, 'missing field "unk_token"'),
        ({"type": "WordPiece", "vocab": {}, "unk_token": ""}, 'missing field "continuing_'),
        (bpe({}, [], dropout=0.1), "dropout other than 0 isn't supported"),
        (
            bpe({"a": 0}, [["a", "a"]], continuing_subword_prefix="##"),
            r"model.merges: \[0\]: 'a' is shorter than the prefix '##'",
        ),
    ],
)
def test_wrong_models(model: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerLoadError, match=message):
        Tokenizer.from_dict(file(model))


@pytest.mark.parametrize(
    "model",
    [
        {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        {
            "vocab": {"a": 0, "[UNK]": 1},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9,
        },
        {"vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
        {"vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 0},
    ],
)
def test_models_without_a_type(model: dict[str, Any]) -> None:
    both = Both(file(model))
    for text in ("ab", "a", "c", "aa"):
        both.check(text)


def test_unknown_without_an_unknown_token_is_an_error() -> None:
    tokenizer = Tokenizer.from_dict(file({"type": "Unigram", "vocab": [["a", 0.0]]}))
    with pytest.raises(ValueError, match="unk_id"):
        tokenizer.encode_ids("b")
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    with pytest.raises(ValueError, match=r"'\[UNK\]' isn't in the vocabulary"):
        Tokenizer.from_dict(file(words)).encode_ids("b")
