"""Tokenizer files of real models and texts to compare on, neither of them part of the project."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import PIECES
from oracle import Both, tokenizers

from pygpukit.tokenizer import Tokenizer


def tokenizer_files(folder: str | Path | None) -> dict[str, Path]:
    """The models of a folder that has one for each, with a tokenizer.json or tokenizer.json.xz."""
    paths = sorted(Path(folder).glob("*/tokenizer.json*")) if folder else []
    return {path.parent.name: path for path in paths if path.suffix in (".json", ".xz")}


def corpora(folder: str | Path | None) -> dict[str, Path]:
    """The text files of a folder, perhaps compressed, by their names without extensions."""
    paths = sorted(Path(folder).glob("*.txt*")) if folder else []
    return {path.name.split(".")[0]: path for path in paths if path.suffix in (".txt", ".xz")}


def read(path: Path) -> str:
    """A text file's contents, its line ends as they are."""
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode()


def random_texts(tokenizer: Tokenizer, seed: str, count: int) -> Iterator[str]:
    """Texts of awkward pieces, tokens of the vocabulary, words and any characters."""
    draw = random.Random(seed)
    added = [token.content for token in tokenizer.get_added_tokens()]
    tokens = [*added, *draw.choices(list(tokenizer.vocab), k=max(50, len(added)))]
    for _ in range(count):
        yield "".join(_piece(draw, tokens) for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 13, 30])))


def _piece(draw: random.Random, tokens: list[str]) -> str:
    kind = draw.random()
    if kind < 0.5:
        return draw.choice(PIECES)
    if kind < 0.65:
        return draw.choice(tokens)
    if kind < 0.8:
        limit = draw.choice([0x80, 0x250, 0x3000, 0xD800])
        return chr(draw.choice([draw.randrange(limit), draw.randrange(0xE000, 0x110000)]))
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABC   ", k=8))


def random_ids(tokenizer: Tokenizer, seed: str, count: int) -> Iterator[list[int]]:
    """Lists of any ids, some of them without a token."""
    draw = random.Random(seed)
    for _ in range(count):
        yield [draw.randrange(tokenizer.vocab_size + 3) for _ in range(draw.randrange(12))]


def check_corpus(both: Both, text: str) -> None:
    """Compare ids, offsets and decoding of a whole text, without truncation and padding."""
    for each in (both.reference, both.tokenizer):
        each.no_truncation()
        each.no_padding()
    expected = both.reference.encode(text)
    found = both.tokenizer.encode(text)
    assert found.ids == expected.ids
    assert found.offsets == expected.offsets
    assert both.tokenizer.encode_ids(text) == expected.ids
    assert both.tokenizer.decode(expected.ids) == both.reference.decode(expected.ids)


def check_vocabulary(both: Both) -> None:
    """Compare the vocabularies, and what the reference makes of the tokenizer as saved."""
    assert both.tokenizer.vocab == both.reference.get_vocab()
    assert both.tokenizer.vocab_size == both.reference.get_vocab_size()
    again = tokenizers.Tokenizer.from_str(both.tokenizer.to_str())
    assert again.to_str() == both.reference.to_str()


def check_case(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    """One text whose tokens are known: ``text``, ``add_special``, ``ids``, ``decoded``, offsets.

    A tag with "encode_special_tokens" means that the text's added tokens are plain text.
    """
    parse_special = "encode_special_tokens" not in case["tag"]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoding = tokenizer.encode(
        case["text"], add_special_tokens=case["add_special"], parse_special=parse_special
    )
    assert encoding.ids == case["ids"]
    ids = tokenizer.encode_ids(case["text"], case["add_special"], parse_special)
    assert ids == case["ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == case["decoded"]
    if "offsets" in case:
        assert encoding.offsets == [tuple(span) for span in case["offsets"]]


def load_cases(path: str | Path | None) -> list[dict[str, Any]]:
    """Texts that gave users trouble, with what is right for them, each naming its model."""
    cases: list[dict[str, Any]] = json.loads(Path(path).read_text("utf-8")) if path else []
    return cases
