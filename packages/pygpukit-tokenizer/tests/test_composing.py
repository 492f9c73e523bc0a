"""Merging words from characters instead of bytes, against the reference."""

from __future__ import annotations

from typing import Any

import pytest
from files import bpe, byte_alphabet, byte_level, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import Both

from pygpukit.tokenizer.byte_alphabet import to_alphabet
from pygpukit.tokenizer.models import bpe as bpe_module

# With leading and with later bytes in common, of two bytes, of three and of four.
LETTERS = " aoаоеёяßé漢字ह😀👍"
WORDS = st.text(LETTERS, min_size=1, max_size=9)


@pytest.fixture(autouse=True)
def _always_composing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_module, "_WORTH_COMPOSING", 0)


@st.composite
def byte_level_models(draw: st.DrawFn) -> dict[str, Any]:
    """BPE over bytes whose merges put bytes of a few letters together, in any order."""
    bytes_of = [list(to_alphabet(letter.encode())) for letter in LETTERS]
    tokens = sorted({byte for symbols in bytes_of for byte in symbols})
    merges: dict[tuple[str, str], None] = {}
    for _ in range(draw(st.integers(0, 8))):
        # What is beside each other in a text, and not anything.
        symbols = list(to_alphabet(draw(WORDS).encode()))
        while len(symbols) > 1 and draw(st.integers(0, 5)):
            i = draw(st.integers(0, len(symbols) - 2))
            merges[symbols[i], symbols[i + 1]] = None
            symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
            tokens.append(symbols[i])
    ordered = list(merges)
    if draw(st.booleans()):
        ordered = draw(st.permutations(ordered))
    vocab = {token: id for id, token in enumerate(dict.fromkeys([*byte_alphabet(), *tokens]))}
    return bpe(vocab, [list(pair) for pair in ordered], ignore_merges=draw(st.booleans()))


@given(byte_level_models(), st.booleans(), st.lists(WORDS, min_size=1, max_size=8))
def test_random_merges(model: dict[str, Any], use_regex: bool, texts: list[str]) -> None:
    pre_tokenizer = byte_level(use_regex=use_regex)
    both = Both(file(model, pre_tokenizer=pre_tokenizer, decoder=byte_level()))
    for text in texts:
        both.check(text)


def composing(merges: str) -> Both:
    """A file with such merges, as in "Ð+° Ð°+Ð", for texts as they are."""
    pairs = [merge.split("+") for merge in merges.split()]
    tokens = [*byte_alphabet(), *map("".join, pairs)]
    vocab = {token: id for id, token in enumerate(tokens)}
    return Both(file(bpe(vocab, pairs), pre_tokenizer=byte_level(use_regex=False)))


@pytest.mark.parametrize(
    ("merges", "word", "symbols"),
    [
        # Nothing can come first.
        ("Ð+° Ð+±", "аба", "Ð° Ð± Ð°"),
        # Behind a space something may.
        ("Ġ+Ð Ð+° ĠÐ+°", " аа", "ĠÐ° Ð°"),
        ("Ð+° Ġ+Ð ĠÐ+°", " аа", "Ġ Ð° Ð°"),
        # Behind a certain letter something may come first, whatever the letter.
        ("Ð+° Ð°+Ð Ð+±", "ааб", "Ð° Ð° Ð ±"),
        ("Ð+° Ð+± Ð°+Ð", "ааб", "Ð° Ð° Ð±"),
        # The last byte may be gone by then.
        ("°+Ñ Ð+°", "ааѐ", "Ð ° Ð ° Ñ Ĳ"),
        ("Ð+° °+Ñ", "ааѐ", "Ð° Ð° Ñ Ĳ"),
        # What comes of it would be merged before what is merged first now.
        ("a+Ð° o+a Ð+°", "oaа", "o a Ð °"),
        ("o+a Ð+° a+Ð°", "oaа", "o a Ð°"),
        # Three bytes, in two steps.
        ("æ+¼ æ¼+¢", "a漢漢", "a æ¼¢ æ¼¢"),
        ("æ+¼ ¢+æ æ¼+¢", "漢漢漢", "æ ¼ ¢ æ ¼ ¢ æ¼ ¢"),
    ],
)
def test_what_is_safe(merges: str, word: str, symbols: str) -> None:
    both = composing(merges)
    both.check(word)
    assert both.tokenizer._model._composed.symbols(word) == symbols.split()


def test_spaces_inside_of_words() -> None:
    both = composing("Ġ+Ð Ð+°")
    for text in ("ab а", "а а", " а а", "  а"):
        both.check(text)
