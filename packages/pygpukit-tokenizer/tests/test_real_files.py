"""Tokenizers of real models, against the reference.

They aren't part of the package. ``PYGPUKIT_TOKENIZERS`` names a folder that has one for each model,
with a ``tokenizer.json`` or ``tokenizer.json.xz`` in it; ``PYGPUKIT_CORPORA`` may name one of text
files (``*.txt`` or ``*.txt.xz``) to compare on as well.
"""

from __future__ import annotations

import lzma
import os
import random
from functools import cache
from pathlib import Path

import pytest
from corpus import PIECES
from oracle import same_encoding, tokenizers

from pygpukit.tokenizer import Tokenizer

TEXTS = int(os.environ.get("PYGPUKIT_TOKENIZER_TEXTS", "200"))


def contents(folder: str, pattern: str) -> dict[str, str]:
    """The text files of a folder that an environment variable names, by name."""
    root = os.environ.get(folder)
    paths = sorted(Path(root).glob(pattern)) if root else []
    return {str(path): str(path) for path in paths if path.suffix in (".json", ".txt", ".xz")}


FILES = contents("PYGPUKIT_TOKENIZERS", "*/tokenizer.json*")
CORPORA = contents("PYGPUKIT_CORPORA", "*.txt*")
pytestmark = pytest.mark.skipif(not FILES, reason="PYGPUKIT_TOKENIZERS names no real tokenizers")


def read(path: str) -> str:
    data = Path(path).read_bytes()
    return (lzma.decompress(data) if path.endswith(".xz") else data).decode()


@cache
def both(path: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    source = read(path)
    return tokenizers.Tokenizer.from_str(source), Tokenizer.from_str(source)


def random_text(draw: random.Random, tokens: list[str]) -> str:
    """Awkward pieces, tokens of the vocabulary, words and any characters."""
    pieces = []
    for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 13, 30])):
        kind = draw.random()
        if kind < 0.5:
            pieces.append(draw.choice(PIECES))
        elif kind < 0.65:
            pieces.append(draw.choice(tokens))
        elif kind < 0.8:
            limit = draw.choice([0x80, 0x250, 0x3000, 0xD800])
            pieces.append(
                chr(draw.choice([draw.randrange(limit), draw.randrange(0xE000, 0x110000)]))
            )
        else:
            pieces.append("".join(draw.choices("abcdefghijklmnopqrstuvwxyzABC   ", k=8)))
    return "".join(pieces)


@pytest.mark.parametrize("path", FILES)
def test_random_texts(path: str) -> None:
    reference, tokenizer = both(path)
    draw = random.Random(path)
    added = [token.content for token in tokenizer.get_added_tokens()]
    tokens = [*added, *draw.choices(list(tokenizer.vocab), k=max(50, len(added)))]
    for number in range(TEXTS):
        text, special = random_text(draw, tokens), number % 2 == 0
        expected = reference.encode(text, add_special_tokens=special)
        same_encoding(tokenizer.encode(text, add_special_tokens=special), expected)
        assert tokenizer.encode_ids(text, add_special_tokens=special) == expected.ids
        for ids in (expected.ids, draw.choices(range(len(tokens)), k=9)):
            decoded = reference.decode(ids, skip_special_tokens=special)
            assert tokenizer.decode(ids, skip_special_tokens=special) == decoded
            stream = tokenizer.decode_stream(special)
            assert "".join([*map(stream.step, ids), stream.flush()]) == decoded


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_corpora(path: str, corpus: str) -> None:
    reference, tokenizer = both(path)
    text = read(corpus)
    for each in (reference, tokenizer):
        each.no_truncation()
        each.no_padding()
    expected = reference.encode(text)
    found = tokenizer.encode(text)
    assert found.ids == expected.ids
    assert found.offsets == expected.offsets
    assert tokenizer.encode_ids(text) == expected.ids
    assert tokenizer.decode(expected.ids) == reference.decode(expected.ids)


@pytest.mark.parametrize("path", FILES)
def test_vocabulary_and_saving(path: str) -> None:
    reference = tokenizers.Tokenizer.from_str(read(path))
    tokenizer = Tokenizer.from_str(read(path))
    assert tokenizer.vocab == reference.get_vocab()
    assert tokenizer.vocab_size == reference.get_vocab_size()
    again = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    assert again.to_str() == reference.to_str()
