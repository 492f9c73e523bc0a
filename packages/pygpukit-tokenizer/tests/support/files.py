"""Small tokenizer.json files, built from scratch as parsed JSON."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

from corpus import CORPUS

Json = dict[str, Any]


def byte_alphabet() -> list[str]:
    """The character of every byte, by the rule that GPT-2's encoder.py states."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    visible += range(ord("®"), ord("ÿ") + 1)
    shifted = (b for b in range(256) if b not in visible)
    table = {b: chr(b) for b in visible} | {b: chr(256 + n) for n, b in enumerate(shifted)}
    return [table[b] for b in range(256)]


def spelled(text: str) -> str:
    """A text in the byte alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[b] for b in text.encode())


def trained_merges(words: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding's training: merge the most frequent pair, ``count`` times."""
    merges = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({merged(word, best): times for word, times in words.items()})
    return merges


def merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every occurrence of the pair joined."""
    result: list[str] = []
    for symbol in word:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return tuple(result)


@cache
def byte_level_merges() -> tuple[tuple[str, str], ...]:
    """Merges over the byte alphabet, learned from the corpus."""
    words = Counter(tuple(spelled(word)) for word in CORPUS.replace(" ", "\0 ").split("\0"))
    return tuple(trained_merges(words, 300))


def byte_level_vocab() -> dict[str, int]:
    """The bytes, then what the merges make."""
    tokens = [*byte_alphabet(), *dict.fromkeys(a + b for a, b in byte_level_merges())]
    return {token: id for id, token in enumerate(tokens)}


def bpe(vocab: dict[str, int], merges: Any, **options: Any) -> Json:
    """A BPE model."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
        **options,
    }


def byte_level_model(**options: Any) -> Json:
    """The byte-level model that most tests use: 256 bytes and 300 merges."""
    return bpe(byte_level_vocab(), [list(pair) for pair in byte_level_merges()], **options)


def suffixed_byte_level_model(suffix: str = "</w>") -> Json:
    """CLIP's kind of byte-level model: all that ends a word exists once more, with a suffix."""
    merges = byte_level_merges()
    ending = [(left, right + suffix) for left, right in merges]
    tokens = [*byte_level_vocab(), *(char + suffix for char in byte_alphabet())]
    tokens += dict.fromkeys(left + right for left, right in ending)
    both = [list(pair) for pairs in zip(merges, ending, strict=True) for pair in pairs]
    return bpe({token: id for id, token in enumerate(tokens)}, both, end_of_word_suffix=suffix)


def byte_level(**options: Any) -> Json:
    """A ByteLevel component, whatever stage it is for."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
        **options,
    }


def added_token(content: str, **flags: Any) -> Json:
    """An element of ``added_tokens``."""
    return {
        "id": 0,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
        **flags,
    }


def file(model: Json | None = None, **parts: Any) -> Json:
    """A whole tokenizer.json; without anything given, that of a byte-level BPE."""
    if model is None:
        model = byte_level_model()
        parts = {"pre_tokenizer": byte_level(), "decoder": byte_level(), **parts}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
        **parts,
    }
